"""Start runs and end them: launch, render, kill, reap."""

from __future__ import annotations

import sys

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.workstation import commands
from verbs.common import DRY, ENV, JSON, SET, clear_errors, run, settings_of

MAX_COST = {"max_cost": "US dollars that the run may cost in the worst case; sets its deadline"}
LADDER = {
    "spot": "the spot market; the same as --set market=spot",
    "wait_for_capacity": "how long to go on looking when no pool has capacity: 2h, 30m or 90s",
}
RESUME = {"resume": "run id: go on from its newest checkpoint, with the same data and training settings"}


@task(help={**ENV, **SET, **DRY, **JSON, **MAX_COST, **LADDER, **RESUME}, iterable=["set_"])
def launch(
    c: Context,
    env: str | None = None,
    set_: list[str] | None = None,
    dry_run: bool = False,
    json: bool = False,
    max_cost: str | None = None,
    spot: bool = False,
    wait_for_capacity: str | None = None,
    resume: str | None = None,
) -> None:
    """Start one training run on one EC2 instance and leave it to itself."""
    cap = [] if max_cost is None else [f"max_cost_usd={max_cost}"]
    settings = settings_of(env, [*(set_ or []), *cap])
    flags = [flag for flag, wanted in (("--dry-run", dry_run), ("--json", json)) if wanted]
    # An empty value, as of a variable that is not set, is refused there, and not taken for none.
    flags += ["--max-cost", max_cost] if max_cost is not None else []
    flags += ["--spot"] if spot else []
    flags += ["--wait-for-capacity", wait_for_capacity] if wait_for_capacity is not None else []
    flags += ["--resume", resume] if resume is not None else []
    run(commands.script_command("launch_training.sh", settings.environment, set_ or [], *flags), settings)


@task(help={**ENV, **SET}, iterable=["set_"])
def render(c: Context, env: str | None = None, set_: list[str] | None = None) -> None:
    """Print the user data that a launch would send, with stand-ins for what only AWS knows; makes no call."""
    from chronos_ec2.workstation.launch_files import example_user_data

    with clear_errors():
        print(example_user_data(settings_of(env, set_)), end="")


@task(
    help={
        **ENV,
        **DRY,
        **JSON,
        "yes": "do not ask",
        "now": "do not wait for the instance to save what it has",
    }
)
def kill(
    c: Context,
    env: str | None = None,
    yes: bool = False,
    now: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """End the run that holds the environment, gracefully first, then certainly; free the environment."""
    settings = settings_of(env)
    wanted = (("--yes", yes), ("--now", now), ("--dry-run", dry_run), ("--json", json))
    flags = [flag for flag, given in wanted if given]
    run(commands.script_command("kill_training.sh", settings.environment, (), *flags), settings)


@task(
    help={
        "env": "only this environment; default: all of invoke.yaml, and what is found beside them",
        **DRY,
        **JSON,
        "yes": "do not ask",
    }
)
def reap(
    c: Context, env: str | None = None, dry_run: bool = False, yes: bool = False, json: bool = False
) -> None:
    """End what nobody owns, in every environment: overdue and silent instances, and what they left behind."""
    from chronos_ec2.workstation.reap import agreed
    from chronos_ec2.workstation.reap_all import reap_everything

    with clear_errors():
        code = reap_everything(
            env,
            out=sys.stdout,
            err=sys.stderr,
            dry_run=dry_run,
            as_json=json,
            confirm=lambda: yes or agreed(),
        )
    if code:
        raise Exit(code=int(code))
