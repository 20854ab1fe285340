"""The tasks: deploy, upload, launch, watch, kill, and what belongs to them. `invoke --list` explains each.

Glue alone: a task reads the settings, builds a command with a pure function of `chronos_ec2.workstation`,
prints it and runs it. Everything here can be done without Invoke.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.errors import ChronosError, UsageProblem
from chronos_ec2.workstation import commands, toolchain
from chronos_ec2.workstation.aws import Aws, embedded_aws_is_up
from chronos_ec2.workstation.settings import (
    REPOSITORY,
    Settings,
    load_settings,
    parse_assignments,
    sibling_environments,
)

ENV = {"env": "environment of invoke.yaml; default: its default_environment"}
SET = {"set_": "KEY=VALUE: a setting for this call only; may be given again"}
RUN = {"run": "run id; default: the active run, else the newest"}
JSON = {"json": "print JSON on stdout"}
DRY = {"dry_run": "print what would be done, change nothing"}
MAX_COST = {"max_cost": "US dollars that the run may cost in the worst case; sets its deadline"}
STATE_FOLDER = REPOSITORY / ".chronos"


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the project's errors into a line of text and an exit code of their own."""
    try:
        yield
    except ChronosError as error:
        raise Exit(f"{type(error).__name__}: {error}", code=int(error.exit_code)) from error


def settings_of(env: str | None, assignments: list[str] | None = None) -> Settings:
    """One environment's settings, flags over environment variables over the file."""
    with clear_errors():
        return load_settings(env, parse_assignments(assignments or []))


def positive_seconds(flag: str, text: str) -> float:
    """A flag's number of seconds, 0.2 at least."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise UsageProblem(f"{flag}: got {text!r}, need 0.2 to 3600 seconds")
    return seconds


def run(argv: list[str], settings: Settings | None = None) -> None:
    """Run a command; a failure ends the task with the command's own exit code."""
    with clear_errors():
        env = commands.aws_environment(settings) if settings else commands.base_environment()
        code = commands.run_command(argv, env=env)
    if code:
        raise Exit(code=code)


# -- infrastructure -----------------------------------------------------------------------------------


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
    run(argv, settings)
    if settings.notify_email and not dry_run:
        print(f"notices go to {settings.notify_email} once the link in AWS's mail is opened", file=sys.stderr)


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


# -- what a run needs ---------------------------------------------------------------------------------


@task(help={**ENV, "set_": SET["set_"]}, iterable=["set_"])
def build_env(c: Context, env: str | None = None, set_: list[str] | None = None) -> None:
    """Pack the training environment and its own interpreter into one archive, if something has changed."""
    settings = settings_of(env, set_)
    requirements = str(REPOSITORY / settings.environment_requirements)
    output = str(environment_folder(settings))
    run(
        commands.module_command(
            "workstation.environment_build", "--requirements", requirements, "--output", output
        )
    )


def environment_folder(settings: Settings) -> Path:
    """Where an environment's archive is built: one folder a requirements file."""
    return STATE_FOLDER / "env" / Path(settings.environment_requirements).stem


@task(help={"into": "folder for the Parquet files; default: .chronos/sample-data"})
def sample_data(c: Context, into: str | None = None) -> None:
    """Write the hourly weather of three New York airports as Parquet files to train on."""
    folder = Path(into).absolute() if into else STATE_FOLDER / "sample-data"  # a task runs in the repository
    run(commands.module_command("workstation.sample_data", str(folder)))


@task(
    help={
        **ENV,
        **SET,
        "data": "folder of your Parquet files, checked first (docs/data.md)",
        "model": "folder of a Chronos-2 model to fine-tune; its model_id is printed on stdout",
    },
    iterable=["set_"],
)
def upload(
    c: Context,
    env: str | None = None,
    data: str | None = None,
    model: str | None = None,
    set_: list[str] | None = None,
) -> None:
    """Upload what has changed: scripts and the built training environment; --data and --model add theirs."""
    from chronos_ec2.workstation import upload as uploads
    from chronos_ec2.workstation.instance_tools import make_instance_tools
    from chronos_ec2.workstation.model_upload import upload_model

    settings = settings_of(env, set_)
    progress = uploads.terminal_progress(sys.stderr)
    with clear_errors():
        aws = Aws(settings)
        if data is not None:
            needs = (settings.shortest_series, settings.columns)
            sent = uploads.upload_data(
                aws.s3, aws.bucket, Path(data), *needs, out=sys.stderr, progress=progress
            )
            print(sent, file=sys.stderr)
        if model is not None:
            print(upload_model(aws.s3, aws.bucket, Path(model), progress=progress))
        archive = environment_folder(settings)
        print(uploads.upload_environment(aws.s3, aws.bucket, archive, progress=progress), file=sys.stderr)
        tools = make_instance_tools(STATE_FOLDER / "tools")
        scripts = uploads.upload_scripts(aws.s3, aws.bucket, REPOSITORY, tools=tools, progress=progress)
        print(scripts, file=sys.stderr)


# -- runs ---------------------------------------------------------------------------------------------


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
    settings = settings_of(env, [*(set_ or []), *([f"max_cost_usd={max_cost}"] if max_cost else [])])
    flags = [flag for flag, wanted in (("--dry-run", dry_run), ("--json", json)) if wanted]
    flags += ["--max-cost", max_cost] if max_cost else []
    flags += ["--spot"] if spot else []
    flags += ["--wait-for-capacity", wait_for_capacity] if wait_for_capacity else []
    flags += ["--resume", resume] if resume else []
    run(commands.script_command("launch_training.sh", settings.environment, set_ or [], *flags), settings)


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
        )
    if code:
        raise Exit(code=int(code))


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


@task(help={**ENV, **JSON})
def runs(c: Context, env: str | None = None, json: bool = False) -> None:
    """List the runs of an environment with their outcomes, newest first."""
    from chronos_ec2.workstation.runs import list_runs, print_runs

    settings = settings_of(env)
    with clear_errors():
        aws = Aws(settings)
        print_runs(list_runs(aws.s3, aws.bucket, settings.environment, ec2=aws.ec2), sys.stdout, as_json=json)


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


@task(help={**ENV, **SET}, iterable=["set_"])
def render(c: Context, env: str | None = None, set_: list[str] | None = None) -> None:
    """Print the user data that a launch would send, with stand-ins for what only AWS knows; makes no call."""
    from chronos_ec2.workstation.launch_files import example_user_data

    with clear_errors():
        print(example_user_data(settings_of(env, set_)), end="")


# -- the embedded AWS ---------------------------------------------------------------------------------


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


# -- the whole of it ----------------------------------------------------------------------------------


@task(help={"keep": "leave the embedded AWS running afterwards, to look around in it"})
def demo(c: Context, keep: bool = False) -> None:
    """Do the main job on the embedded AWS, from nothing to a trained model: the other tasks in a row."""
    from chronos_ec2.workstation.summary import print_summary

    env, data, results = "local", str(STATE_FOLDER / "sample-data"), REPOSITORY / "results"
    was_up = embedded_aws_is_up()
    local_start(c)
    try:
        deploy(c, env=env)
        sample_data(c, into=data)
        build_env(c, env=env)
        upload(c, env=env, data=data)
        launch(c, env=env)
        watch(c, env=env)
        fetch(c, env=env, into=str(results))
        runs(c, env=env)
    finally:
        if not (keep or was_up):
            local_stop(c)
    with clear_errors():
        print_summary(max(results.glob("????-??-??-??????")), sys.stdout)
    if keep or was_up:
        print(
            '\nthe embedded AWS is up: eval "$(invoke local.env)", then aws s3 ls; invoke local.stop ends it'
        )


# -- the checks ---------------------------------------------------------------------------------------


def shell_files() -> list[str]:
    """Every Bash file that we wrote."""
    folders = (REPOSITORY / "shell", REPOSITORY / "tests" / "bats")
    found = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".sh", ".bash", ".bats")
    ]
    return [str(path.relative_to(REPOSITORY)) for path in sorted(found)] + ["invokew", ".ci/run"]


@task(help={"fix": "format and mend what can be mended instead of complaining"})
def lint(c: Context, fix: bool = False) -> None:
    """Check the sources: shellcheck, shfmt, ruff, mypy."""
    run(["shellcheck", *shell_files()])
    run(["shfmt", "--write" if fix else "--diff", *shell_files()])
    run(["ruff", "check", *(["--fix"] if fix else []), "."])
    run(["ruff", "format", *([] if fix else ["--check"]), "."])
    run(["mypy"])


@task(help={"only": "a file or a folder of tests/bats; default: all"})
def bats(c: Context, only: str = "tests/bats") -> None:
    """Test the Bash scripts."""
    with clear_errors():
        program = str(toolchain.node_program("bats", "bats"))
    if only == "tests/bats":
        run(["bash", "tests/bats/run.sh"])  # side by side, a file a core
    else:
        run([program, "--print-output-on-failure", "--recursive", only])


@task(help={"only": "a file or a folder; default: all"})
def pytest(c: Context, only: str = "tests") -> None:
    """Test the Python code, the CDK app, the embedded AWS and whole runs on it."""
    run(commands.pytest_command(only, spread="loadgroup"))


@task(
    help={
        "seed": "seed of what is left to chance; default: a new one, printed",
        "report": "file that gets the counts as a page, e.g. docs/fault-proofs.md",
        "only": "a file of tests/faults; default: all",
    }
)
def faults(
    c: Context, seed: int | None = None, report: str | None = None, only: str = "tests/faults"
) -> None:
    """Prove the state file under contention, crashes, lost answers, corruption: every case (over an hour)."""
    run(commands.faults_command(only, seed, report))


@task(name="test")
def test_all(c: Context) -> None:
    """Run every check and every test."""
    lint(c)
    bats(c)
    pytest(c)


@task
def lock(c: Context) -> None:
    """Write the lock files anew from requirements/*.in."""
    run(commands.module_command("workstation.lock_files"))


ns = Collection(
    deploy,
    destroy,
    doctor,
    build_env,
    sample_data,
    upload,
    launch,
    watch,
    kill,
    reap,
    runs,
    cost,
    logs,
    fetch,
    render,
)
for check in (demo, lint, bats, pytest, faults, test_all, lock):
    ns.add_task(check)  # type: ignore[arg-type]  # invoke types @task's result as a plain callable
ns.add_collection(Collection("local", local_start, local_stop, local_status, local_env, local_interrupt))
