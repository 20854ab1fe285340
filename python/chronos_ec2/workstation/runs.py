"""The history of an environment's runs, read from each run's run.json, with the live run merged in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.errors import ChronosError, StateUnreadable
from chronos_ec2.report.run_files import mapping, moment
from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation.history_cache import HistoryCache
from chronos_ec2.workstation.outcome import (
    expected_since,
    finish_record,
    instance_fate,
    is_launching,
    nodes_of,
)
from chronos_ec2.workstation.run_ids import active_state, list_run_ids, run_prefix
from chronos_ec2.workstation.run_record import RunRecord, parse_record
from chronos_ec2.workstation.s3 import RecordUnreadable, get_json, in_parallel

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

QUIET: Final = timedelta(seconds=60)
WORKERS: Final = 24
"""How many records are read at a time."""


def list_runs(
    s3: S3Client,
    bucket: str,
    environment: str,
    *,
    ec2: EC2Client | None = None,
    since: datetime | None = None,
    outcomes: Collection[str] = (),
    limit: int = 0,
    cache: HistoryCache | None = None,
    now: Callable[[], datetime] = utc_now,
) -> list[RunRecord]:
    """The runs of an environment, newest first; a broken record is named in its `problem`.

    Args:
        ec2: when given, runs without an end and without a living state file are looked up, and the
            record of one whose machine is gone is completed.
        since: only runs that began then or later.
        outcomes: only runs that ended, or go on, like that; none means all.
        limit: no more than so many; 0 means all. Older records are not even read.
        cache: where records of ended runs are kept from call to call.

    Raises:
        StorageDenied: S3 refused the listing or a record.
    """
    state, trouble = _active(s3, bucket, environment)
    kept: dict[str, dict[str, Any]] = {}
    fresh: dict[str, dict[str, Any]] = {}

    def one(run_id: str) -> RunRecord:
        held = state if state is not None and state["run_id"] == run_id else None
        if run_id in kept:
            return parse_record(environment, run_id, kept[run_id], held, now())
        document, problem = _looked_up(s3, ec2, bucket, environment, run_id, held, now)
        if document is not None and problem is None:
            fresh[run_id] = document
        record = parse_record(environment, run_id, document, held, now())
        found = problem or record.problem or (trouble if record.outcome == "unknown" else None)
        return replace(record, problem=found)

    first = f"{since:%Y-%m-%d-%H%M%S}" if since else ""
    run_ids = [name for name in list_run_ids(s3, bucket, environment, first) if name >= first]
    found: list[RunRecord] = []
    heirs: dict[str, str] = {}
    at_once = min(len(run_ids), max(limit, WORKERS)) if limit else len(run_ids)
    for begin in range(0, len(run_ids), at_once or 1):
        some = run_ids[begin : begin + at_once]
        kept = cache.find(some) if cache else {}
        records = [_with_heir(record, heirs) for record in in_parallel(one, some, workers=WORKERS)]
        found += [record for record in records if _wanted(record, outcomes)]
        if cache:
            cache.keep(fresh)
            fresh.clear()
        if limit and len(found) >= limit:
            return found[:limit]
    return found


def look_up(
    s3: S3Client,
    ec2: EC2Client,
    bucket: str,
    environment: str,
    run_id: str,
    *,
    now: Callable[[], datetime] = utc_now,
) -> RunRecord:
    """One run as `list_runs` has it; the record of one whose machine is gone is completed.

    Raises:
        StorageDenied: S3 refused.
    """
    state, _ = _active(s3, bucket, environment)
    held = state if state is not None and state["run_id"] == run_id else None
    document, problem = _looked_up(s3, ec2, bucket, environment, run_id, held, now)
    record = parse_record(environment, run_id, document, held, now())
    return replace(record, problem=problem or record.problem)


def _active(s3: S3Client, bucket: str, environment: str) -> tuple[dict[str, Any] | None, str | None]:
    """The state file, or what is wrong with it.

    It is read before any record: a run writes its end before it drops the state, so one that is read
    afterwards without an end and without a state has truly lost its machine.
    """
    try:
        return active_state(s3, bucket, environment), None
    except StateUnreadable as error:
        return None, f"{error}; clear it with invoke kill --env {environment}"


def _looked_up(
    s3: S3Client,
    ec2: EC2Client | None,
    bucket: str,
    environment: str,
    run_id: str,
    held: Mapping[str, Any] | None,
    now: Callable[[], datetime],
) -> tuple[dict[str, Any] | None, str | None]:
    """A run's record, completed where EC2 may be asked and its machine is gone, or what is wrong with it."""
    document, problem = _read(s3, bucket, environment, run_id)
    if ec2 is not None and document is not None and _needs_an_end(document, held, now()):
        return _completed(s3, ec2, bucket, environment, run_id, document, held, now)
    return document, problem


def _with_heir(record: RunRecord, heirs: dict[str, str]) -> RunRecord:
    """The record with the newest run that went on from where it could be gone on from.

    Args:
        heirs: by run, the newest that went on from it; all newer runs have been here before.
    """
    source = record.run_id if record.checkpoint_step is not None else record.resume_from
    heir = heirs.get(record.run_id) or heirs.get(str(source))
    if record.resume_from:
        heirs.setdefault(record.resume_from, record.run_id)
    return replace(record, continued_by=heir)


def _wanted(record: RunRecord, outcomes: Collection[str]) -> bool:
    return not outcomes or record.outcome in outcomes


def _read(
    s3: S3Client, bucket: str, environment: str, run_id: str
) -> tuple[dict[str, Any] | None, str | None]:
    try:
        document = get_json(s3, bucket, f"{run_prefix(environment, run_id)}run.json")
    except RecordUnreadable as error:
        return None, str(error)
    return document, None if document is not None else "run.json is missing"


def _needs_an_end(document: Mapping[str, Any], held: Mapping[str, Any] | None, now: datetime) -> bool:
    if document.get("outcome"):
        return False
    if held is None:
        return True
    beat = moment(held["timestamps"]["last_update"])
    return beat is None or now - beat > QUIET


def _completed(
    s3: S3Client,
    ec2: EC2Client,
    bucket: str,
    environment: str,
    run_id: str,
    document: dict[str, Any],
    held: Mapping[str, Any] | None,
    now: Callable[[], datetime],
) -> tuple[dict[str, Any], str | None]:
    """The record after EC2 was asked, and what is still not known about it."""
    started = moment(expected_since(held) if held is not None else document.get("started_at"))
    instance = mapping(document.get("instance")).get("id") or (held or {}).get("instance_id")
    try:
        nodes = nodes_of(held, document)
        fate = instance_fate(ec2, environment, run_id, instance, nodes=nodes, started_at=started, now=now)
        # A record is older than its claim: the run may have claimed the environment since that was looked at.
        if fate.state == "gone" and is_launching(active_state(s3, bucket, environment), run_id):
            return document, None
        finished = finish_record(s3, bucket, environment, run_id, fate, state=held, now=now) or document
    except ChronosError as error:
        return document, f"its end could not be recorded: {error}"
    if finished.get("outcome") or held is not None:
        return finished, None
    return finished, f"no state file and no end in run.json: {fate.words}"
