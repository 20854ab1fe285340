"""What a run needs in the bucket: environment, data, scripts."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from chronos_ec2.workstation import commands
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.settings import REPOSITORY, Settings
from verbs.common import ENV, SET, STATE_FOLDER, clear_errors, run, settings_of


@task(
    help={
        **ENV,
        "set_": SET["set_"],
        "platform": "linux-x86-64 (what the instances run) or this (this computer's Python); "
        "default: this on Linux x86-64 and for the embedded AWS",
        "interpreter": "for linux-x86-64: tarball or folder of a Python to pack; default: uv fetches one",
    },
    iterable=["set_"],
)
def build_env(
    c: Context,
    env: str | None = None,
    platform: str | None = None,
    interpreter: str | None = None,
    set_: list[str] | None = None,
) -> None:
    """Pack the training environment and its own interpreter into one archive, if something has changed."""
    settings = settings_of(env, set_)
    requirements = str(REPOSITORY / settings.environment_requirements)
    output = str(environment_folder(settings))
    # An embedded instance is this computer.
    platform = platform or ("this" if settings.embedded else None)
    run(
        commands.module_command(
            *("workstation.environment_build", "--requirements", requirements, "--output", output),
            *("--format", settings.environment_format),
            *(("--platform", platform) if platform else ()),
            *(("--interpreter", str(Path(interpreter).absolute())) if interpreter else ()),
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
    from chronos_ec2.workstation.content import Digests
    from chronos_ec2.workstation.instance_tools import make_instance_tools, runs_on_instances
    from chronos_ec2.workstation.model_upload import upload_model
    from chronos_ec2.workstation.script_files import report_scripts
    from chronos_ec2.workstation.upload_progress import upload_progress

    settings = settings_of(env, set_)
    progress, digests = upload_progress(sys.stderr), Digests(STATE_FOLDER / "digests.json")
    with clear_errors():
        aws = Aws(settings)
        # First: an upload that breaks off leaves no scripts older than those that a launch from here expects.
        tools = report_scripts()
        if runs_on_instances() or not settings.embedded:
            tools |= make_instance_tools(
                STATE_FOLDER / "tools", say=lambda line: print(line, file=sys.stderr)
            )
        scripts = uploads.upload_scripts(
            *(aws.s3, aws.bucket, REPOSITORY),
            tools=tools,
            keep_tools=not runs_on_instances(),
            progress=progress,
        )
        print(scripts, file=sys.stderr)
        if data is not None:
            needs = (settings.shortest_series, settings.columns)
            sent = uploads.upload_data(
                *(aws.s3, aws.bucket, Path(data), *needs),
                held_out=settings.held_out_rows,
                out=sys.stderr,
                progress=progress,
                digests=digests,
            )
            digests.save()
            print(sent, file=sys.stderr)
        if model is not None:
            print(upload_model(aws.s3, aws.bucket, Path(model), progress=progress))
        archive = environment_folder(settings)
        # The machines of the embedded AWS are this one.
        machines = (platform.machine(),) if settings.embedded else ("x86_64",)
        packed = uploads.upload_environment(
            aws.s3, aws.bucket, archive, progress=progress, digests=digests, machines=machines
        )
        digests.save()
        print(packed, file=sys.stderr)
