"""Look at runs, while they go on and afterwards: watch, runs, cost, logs, fetch."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.settings import sibling_environments
from verbs.common import ENV, JSON, RUN, clear_errors, positive_seconds, settings_of


@task(
    help={
        **ENV,
        **RUN,
        **JSON,
        "once": "show the run as it is now and end; default: follow it to its end",
        "poll_seconds": "seconds between looks, 0.2 or more",
    }
)
def watch(
    c: Context,
    env: str | None = None,
    run: str | None = None,
    once: bool = False,
    json: bool = False,
    poll_seconds: str = "2",
) -> None:
    """Follow the run to its end; the exit code is the run's own."""
    from chronos_ec2.workstation.notices import Teller
    from chronos_ec2.workstation.watch import watch as watch_run

    settings = settings_of(env)
    with clear_errors():
        pause = positive_seconds("--poll-seconds", poll_seconds)
        aws = Aws(settings)
        code = watch_run(
            aws.s3,
            aws.ec2,
            aws.bucket,
            settings.environment,
            out=sys.stdout,
            run_id=run,
            follow=not once,
            as_json=json,
            poll_seconds=pause,
            heartbeat_seconds=settings.heartbeat_seconds,
            saw=Teller(settings, aws.topic_arn, aws.bucket).saw if not once else None,
            now=aws.clock,
        )
    if code:
        raise Exit(code=int(code))


@task(help={**ENV, **JSON})
def runs(c: Context, env: str | None = None, json: bool = False) -> None:
    """List the runs of an environment with their outcomes, newest first."""
    from chronos_ec2.workstation.runs import list_runs, print_runs

    settings = settings_of(env)
    with clear_errors():
        aws = Aws(settings)
        records = list_runs(aws.s3, aws.bucket, settings.environment, ec2=aws.ec2, now=aws.clock)
        print_runs(records, sys.stdout, as_json=json)


@task(
    help={
        "env": "environment; default: every one in the default environment's account and region",
        "since": "count runs from then on: a day (UTC) like 2026-11-01, or 7d, 12h, 2w; default: all",
        **JSON,
    }
)
def cost(c: Context, env: str | None = None, since: str | None = None, json: bool = False) -> None:
    """Add up what the runs have cost, by environment and outcome."""
    from chronos_ec2.workstation.cost import show_costs

    settings = settings_of(env)
    with clear_errors():
        names = [settings.environment] if env else sibling_environments(settings)
        show_costs(Aws(settings), names, since, sys.stdout, as_json=json)


@task(
    help={
        **ENV,
        **RUN,
        "follow": "go on until the run has ended",
        "grep": "only lines that match this pattern",
    }
)
def logs(
    c: Context,
    env: str | None = None,
    run: str | None = None,
    follow: bool = False,
    grep: str | None = None,
) -> None:
    """Print a run's log, while it runs or after it is gone."""
    from chronos_ec2.workstation.logs import show_logs

    settings = settings_of(env)
    with clear_errors():
        aws = Aws(settings)
        code = show_logs(
            aws.s3,
            aws.ec2,
            aws.bucket,
            settings.environment,
            out=sys.stdout,
            err=sys.stderr,
            run_id=run,
            follow=follow,
            grep=grep,
            heartbeat_seconds=settings.heartbeat_seconds,
            now=aws.clock,
        )
    if code:
        raise Exit(code=int(code))


@task(help={**ENV, **RUN, "into": "folder; the run's files go into a folder with its id in there"})
def fetch(c: Context, env: str | None = None, run: str | None = None, into: str = "results") -> None:
    """Download everything a run has left: model, metrics, forecasts, logs."""
    from chronos_ec2.workstation.fetch import fetch as fetch_run

    settings = settings_of(env)
    with clear_errors():
        aws = Aws(settings)
        fetch_run(aws.s3, aws.bucket, settings.environment, into=Path(into), out=sys.stderr, run_id=run)
