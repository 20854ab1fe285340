"""The tasks: deploy, upload, launch, watch, kill, and what belongs to them. `invoke --list` explains each.

Glue alone: a task reads the settings, builds a command with a pure function of `chronos_ec2.workstation`,
prints it and runs it. Everything here can be done without Invoke. This file is the table of contents and the
demo; each subject has its module in `verbs/`.
"""

from __future__ import annotations

import io
import sys

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from chronos_ec2.workstation.aws import embedded_aws_is_up
from chronos_ec2.workstation.settings import REPOSITORY
from verbs.checks import bats, faults, fuzz, lint, lock, pytest, test_all
from verbs.common import STATE_FOLDER, clear_errors
from verbs.embedded import local_env, local_interrupt, local_start, local_status, local_stop
from verbs.infrastructure import deploy, destroy, doctor
from verbs.looking import compare, cost, export, fetch, logs, report, runs, watch
from verbs.material import build_env, sample_data, upload
from verbs.running import kill, launch, reap, render

if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # what a log says, a terminal may have no letter for


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
    report,
    compare,
    export,
    render,
)
for check in (demo, lint, bats, pytest, faults, fuzz, test_all, lock):
    ns.add_task(check)  # type: ignore[arg-type]  # invoke types @task's result as a plain callable
ns.add_collection(Collection("local", local_start, local_stop, local_status, local_env, local_interrupt))
