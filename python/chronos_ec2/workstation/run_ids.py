"""Which runs an environment has: their ids, their prefixes, and which one holds the environment now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.errors import NoSuchRun, StateUnreadable, UsageProblem
from chronos_ec2.state.store import StateStore
from chronos_ec2.workstation.s3 import list_folders, translated
from chronos_ec2.workstation.settings import check_environment_name

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RUN_ID: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{6}")
SHOWN_IN_ERRORS: Final = 10


def check_run_id(run_id: str) -> str:
    """Return the id if it may stand in a key.

    Raises:
        UsageProblem: it has another form than `2025-01-15-143022`.
    """
    if not RUN_ID.fullmatch(run_id):
        raise UsageProblem(f"run id {run_id!r}: expected UTC YYYY-MM-DD-HHMMSS, like 2025-01-15-143022")
    return run_id


def run_prefix(environment: str, run_id: str) -> str:
    """A run's prefix in the bucket, `{env}/{run_id}/`, from checked names."""
    return f"{check_environment_name(environment)}/{check_run_id(run_id)}/"


def list_run_ids(s3: S3Client, bucket: str, environment: str, first: str = "") -> list[str]:
    """The ids of every run that left something in the bucket, newest first.

    Args:
        first: begin with this id; what is before it is not even listed.
    """
    names = list_folders(s3, bucket, f"{check_environment_name(environment)}/", first)
    return sorted((name for name in names if RUN_ID.fullmatch(name)), reverse=True)


def active_state(s3: S3Client, bucket: str, environment: str) -> dict[str, Any] | None:
    """The state file's body, or None when no run holds the environment."""
    store = StateStore(s3, bucket, check_environment_name(environment))
    with translated(store.uri):
        snapshot = store.read()
    return snapshot.body if snapshot else None


def latest_run_id(s3: S3Client, bucket: str, environment: str) -> str:
    """The run that holds the environment, else the newest one.

    Raises:
        NoSuchRun: the environment has had no run yet.
    """
    try:
        state = active_state(s3, bucket, environment)
    except StateUnreadable:
        state = None  # a corrupt state file must not hide the runs' logs and results
    if state is not None:
        return check_run_id(str(state["run_id"]))
    known = list_run_ids(s3, bucket, environment)
    if not known:
        raise no_such_run(environment, None, known)
    return known[0]


def no_such_run(environment: str, run_id: str | None, known: Sequence[str]) -> NoSuchRun:
    """The error for a run that is not there, with the ones that are."""
    if not known:
        return NoSuchRun(f"environment {environment} has had no run yet: invoke launch --env {environment}")
    if run_id in known:
        return NoSuchRun(f"run {run_id} of environment {environment} has left files, but no run.json")
    more = f" and {len(known) - SHOWN_IN_ERRORS} older" if len(known) > SHOWN_IN_ERRORS else ""
    listed = ", ".join(known[:SHOWN_IN_ERRORS])
    return NoSuchRun(f"environment {environment} has no run {run_id}; it has {listed}{more}")
