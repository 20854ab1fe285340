"""The embedded AWS on this machine."""

from __future__ import annotations

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.workstation import commands
from verbs.common import clear_errors, run


@task(name="start")
def local_start(c: Context) -> None:
    """Start the embedded AWS on this machine."""
    run(commands.local_cloud_command("start"))


@task(name="stop")
def local_stop(c: Context) -> None:
    """Stop the embedded AWS, its instances and everything it holds."""
    run(commands.local_cloud_command("stop"))


@task(name="status")
def local_status(c: Context) -> None:
    """Say whether the embedded AWS runs, and where."""
    run(commands.local_cloud_command("status"))


@task(
    name="interrupt",
    help={
        "instance": "which spot instance; default: the only one",
        "rebalance": "only the hint that it may be taken back; nothing is ended",
        "notice_seconds": "seconds from the notice to the end",
    },
)
def local_interrupt(
    c: Context, instance: str | None = None, rebalance: bool = False, notice_seconds: str = "120"
) -> None:
    """Take a spot instance back as EC2 does: a notice, and two minutes later the end."""
    flags = [*(["--instance", instance] if instance else []), *(["--rebalance"] if rebalance else [])]
    run([*commands.local_cloud_command("interrupt"), "--notice-seconds", notice_seconds, *flags])


@task(name="env")
def local_env(c: Context) -> None:
    """Print the variables that point any AWS program at the embedded AWS: eval "$(invoke local.env)"."""
    with clear_errors():
        code = commands.run_command(commands.local_cloud_command("env"), echo=False)
    if code:
        raise Exit(code=code)
