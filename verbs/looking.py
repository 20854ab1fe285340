"""Look at runs, while they go on and afterwards: watch, runs, cost, logs, fetch, report, compare, export."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.errors import UsageProblem
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.settings import sibling_environments
from verbs.common import ENV, JSON, RUN, STATE_FOLDER, clear_errors, count, positive_seconds, settings_of


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


@task(
    iterable=["outcome"],
    help={
        **ENV,
        **JSON,
        "outcome": "only runs that ended like this (succeeded, failed, …, or running); may be given again",
        "since": "runs from then on: a day (UTC) like 2026-11-01, or 7d, 12h, 2w; default: all",
        "limit": "how many at most; 0: all",
        "metric": "the figure to show of each run, e.g. MASE",
    },
)
def runs(
    c: Context,
    env: str | None = None,
    outcome: list[str] | None = None,
    since: str | None = None,
    limit: str = "50",
    metric: str = "WQL",
    json: bool = False,
) -> None:
    """List the runs of an environment, newest first: outcome, duration, cost, metric, commit."""
    from chronos_ec2.workstation.cost import parse_since
    from chronos_ec2.workstation.history_cache import HistoryCache
    from chronos_ec2.workstation.run_record import check_outcomes
    from chronos_ec2.workstation.runs import list_runs
    from chronos_ec2.workstation.runs_table import print_runs

    settings = settings_of(env)
    with clear_errors():
        outcomes, most = check_outcomes(outcome or []), count("--limit", limit)
        aws = Aws(settings)
        cache = HistoryCache(STATE_FOLDER / "history.sqlite", aws.bucket, settings.environment)
        found = list_runs(
            aws.s3,
            aws.bucket,
            settings.environment,
            ec2=aws.ec2,
            since=parse_since(since, aws.clock()),
            outcomes=outcomes,
            limit=most + 1 if most else 0,
            cache=cache,
            now=aws.clock,
        )
        shown = found[:most] if most else found
        print_runs(shown, sys.stdout, metric=metric, filtered=bool(outcomes or since), as_json=json)
        if len(found) > len(shown):
            print(f"the newest {most}; --limit 0 lists all", file=sys.stderr)


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
        "node": "which machine's, of a run of several; 0 is the one that leads",
        "follow": "go on until the run has ended",
        "grep": "only lines that match this pattern",
        "source": "only lines of bootstrap, cloud-init, kernel (what it says of GPUs) or trainer",
    }
)
def logs(
    c: Context,
    env: str | None = None,
    run: str | None = None,
    node: str = "0",
    follow: bool = False,
    grep: str | None = None,
    source: str | None = None,
) -> None:
    """Print a run's log, while it runs or after it is gone."""
    from chronos_ec2.workstation.logs import show_logs

    settings = settings_of(env)
    with clear_errors():
        number = count("--node", node)
        aws = Aws(settings)
        code = show_logs(
            aws.s3,
            aws.ec2,
            aws.bucket,
            settings.environment,
            out=sys.stdout,
            err=sys.stderr,
            run_id=run,
            node=number,
            follow=follow,
            grep=grep,
            source=source,
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


@task(
    help={
        **ENV,
        **RUN,
        "into": "file of the page; default: results/RUN/report.html",
        "folder": "make it of this fetched run instead; asks AWS for nothing",
    }
)
def report(
    c: Context,
    env: str | None = None,
    run: str | None = None,
    into: str | None = None,
    folder: str | None = None,
) -> None:
    """Write a run as one HTML page: forecasts, errors, curves, time, machine, cost, configuration."""
    from chronos_ec2.workstation.report import report_of_bucket, report_of_folder

    page = Path(into) if into else None
    with clear_errors():
        if folder is not None:
            if env is not None or run is not None:
                raise UsageProblem("--folder names the run already: leave --env and --run out")
            report_of_folder(Path(folder), into=page, out=sys.stdout)
            return
        settings = settings_of(env)
        aws = Aws(settings)
        report_of_bucket(
            aws.s3,
            aws.ec2,
            aws.bucket,
            settings.environment,
            into=page,
            out=sys.stdout,
            run_id=run,
            now=aws.clock,
        )


@task(
    positional=["first", "second"],
    iterable=["also"],
    help={
        **ENV,
        **JSON,
        "first": "a run id",
        "second": "another",
        "also": "one more; may be given again",
        "everything": "also what is the same in all of them",
    },
)
def compare(
    c: Context,
    first: str,
    second: str,
    also: list[str] | None = None,
    env: str | None = None,
    everything: bool = False,
    json: bool = False,
) -> None:
    """Lay runs side by side; what differs is marked."""
    from chronos_ec2.workstation.compare import compare as compare_runs
    from chronos_ec2.workstation.compare import print_comparison
    from chronos_ec2.workstation.run_ids import check_run_id

    settings = settings_of(env)
    with clear_errors():
        run_ids = [check_run_id(run_id) for run_id in (first, second, *(also or []))]
        aws = Aws(settings)
        rows = compare_runs(aws.s3, aws.bucket, settings.environment, run_ids)
        print_comparison(rows, run_ids, sys.stdout, everything=everything, as_json=json)


@task(
    help={
        **ENV,
        **RUN,
        "mlflow": "the tracking server, http(s)://host:port",
        "experiment": "name of the MLflow experiment, made when there is none; default: chronos-ENV",
    }
)
def export(
    c: Context, mlflow: str, env: str | None = None, run: str | None = None, experiment: str | None = None
) -> None:
    """Give a run to an MLflow tracking server; a second call brings the same MLflow run up to date."""
    from chronos_ec2.workstation.export import export_run
    from chronos_ec2.workstation.mlflow_server import MlflowServer

    settings = settings_of(env)
    with clear_errors():
        server = MlflowServer(mlflow)
        aws = Aws(settings)
        export_run(
            aws.s3,
            aws.bucket,
            settings.environment,
            server=server,
            experiment=experiment or f"chronos-{settings.environment}",
            out=sys.stdout,
            run_id=run,
        )
