"""The standing resources: deploy, destroy, doctor."""

from __future__ import annotations

import sys

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.workstation import commands
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.settings import sibling_environments
from chronos_ec2.workstation.stack_context import stack_context
from verbs.common import DRY, ENV, JSON, SET, clear_errors, run, settings_of


@task(
    help={
        **ENV,
        **DRY,
        "notify_email": "address that is told of runs, for this deploy; to stay, put it into invoke.yaml",
    }
)
def deploy(
    c: Context, env: str | None = None, notify_email: str | None = None, dry_run: bool = False
) -> None:
    """Create or update the standing resources with `cdk deploy`. All of them are free."""
    settings = settings_of(env, None if notify_email is None else [f"notify_email={notify_email}"])
    with clear_errors():
        siblings = sibling_environments(settings)
        flags = ("--method", "direct", "--require-approval", "never", "--progress", "events")
        argv = commands.cdk_command(settings, siblings, "deploy", *flags)
        if dry_run:
            argv = commands.cdk_command(settings, siblings, "diff", "--method", "template")
        else:
            from chronos_ec2.workstation.zones import refuse_too_many_zones

            wanted = int(stack_context(settings, siblings)["availability_zones"])
            refuse_too_many_zones(Aws(settings).ec2, settings.region, wanted)
    run(argv, settings)
    if settings.notify_email and not dry_run:
        print(f"notices go to {settings.notify_email} once the link in AWS's mail is opened", file=sys.stderr)
    if notify_email and not dry_run:
        # The stack is what its last deploy said; others are advised all the time, by `doctor` for one.
        keep = f"to keep it, set notify_email: {notify_email} in invoke.yaml"
        print(f"the next deploy without --notify-email ends that; {keep}", file=sys.stderr)


@task(help={**ENV, "yes": "do not ask"})
def destroy(c: Context, env: str | None = None, yes: bool = False) -> None:
    """Delete the standing resources with `cdk destroy`. The bucket and what is in it stay."""
    from chronos_ec2.workstation.destruction import refuse_while_running

    settings = settings_of(env)
    with clear_errors():
        refuse_while_running(Aws(settings), sibling_environments(settings))
        force = ("--force",) if yes else ()
        argv = commands.cdk_command(settings, sibling_environments(settings), "destroy", *force)
    run(argv, settings)


@task(help={**ENV, **SET, **JSON}, iterable=["set_"])
def doctor(c: Context, env: str | None = None, set_: list[str] | None = None, json: bool = False) -> None:
    """Look at everything that a launch needs; say what is wrong and which command mends it."""
    from chronos_ec2.workstation.doctor.checkup import doctor as look_around
    from chronos_ec2.workstation.doctor.facts import Facts

    settings = settings_of(env, set_)
    with clear_errors():
        code = look_around(Facts(settings, Aws(settings).client), sys.stdout, as_json=json)
    if code:
        raise Exit(code=int(code))
