"""The history of an environment's runs, read from each run's run.json, with the live run merged in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TextIO

from chronos_ec2.errors import ChronosError, StateUnreadable
from chronos_ec2.state.clock import from_text, to_text, utc_now
from chronos_ec2.workstation.next_step import unfinished
from chronos_ec2.workstation.outcome import (
    expected_since,
    finish_record,
    instance_fate,
    is_launching,
    nodes_of,
)
from chronos_ec2.workstation.run_cost import cost_text, cost_until, number_of
from chronos_ec2.workstation.run_ids import active_state, list_run_ids, run_prefix
from chronos_ec2.workstation.s3 import RecordUnreadable, get_json, in_parallel
from chronos_ec2.workstation.usage import Usage, usage_of
from chronos_ec2.workstation.words import span_text

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

_STEPS: Final = ("interrupted_at_step", "checkpoint_step", "resumed_from_step")
QUIET: Final = timedelta(seconds=60)
_HEADINGS: Final = (
    "RUN",
    "OUTCOME",
    "FAILED STEP",
    "STARTED (UTC)",
    "DURATION",
    "COST",
    "WQL",
    "BASELINE",
    "INSTANCE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run as its records tell it.

    Attributes:
        outcome: running, succeeded, failed, interrupted, killed, lost, launch_failed, or unknown.
        current_step: where the run is now, while it is running.
        cost_usd: as in run.json; up to now for a run that goes on; None where nobody knows.
        wql, baseline_wql: the model's weighted quantile loss, and the seasonal-naive forecast's.
        interrupted_at_step, checkpoint_step: how far it had come, and what of that is safe in S3.
        resume_from, resumed_from_step: the run that it went on from, and where.
        usage: where its billed seconds went; None where nobody knows.
        problem: what is wrong with the record itself, for a person.
    """

    run_id: str
    environment: str
    outcome: str = "unknown"
    failed_step: str | None = None
    current_step: str | None = None
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_seconds: float | None = None
    cost_usd: Mapping[str, Any] | None = None
    wql: float | None = None
    baseline_wql: float | None = None
    instance_type: str | None = None
    instance_id: str | None = None
    nodes: int = 1
    interrupted_at_step: int | None = None
    checkpoint_step: int | None = None
    resume_from: str | None = None
    resumed_from_step: int | None = None
    usage: Usage | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The record with times as text, for `--json`."""
        return {
            name: to_text(value) if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


def list_runs(
    s3: S3Client,
    bucket: str,
    environment: str,
    *,
    ec2: EC2Client | None = None,
    since: datetime | None = None,
    now: Callable[[], datetime] = utc_now,
) -> list[RunRecord]:
    """Every run of an environment, newest first; a broken record is named in its `problem`.

    Args:
        ec2: when given, runs without an end and without a living state file are looked up, and the
            record of one whose machine is gone is completed.
        since: only runs that began then or later.

    Raises:
        StorageDenied: S3 refused the listing or a record.
    """
    trouble = None
    try:
        # The state comes first: a run writes its end before it drops the state, so one that is read
        # afterwards without an end and without a state has truly lost its machine.
        state = active_state(s3, bucket, environment)
    except StateUnreadable as error:
        state, trouble = None, f"{error}; `invoke kill --env {environment}` clears it"

    def one(run_id: str) -> RunRecord:
        held = state if state is not None and state["run_id"] == run_id else None
        document, problem = _read(s3, bucket, environment, run_id)
        if ec2 is not None and document is not None and _needs_an_end(document, held, now()):
            document, problem = _completed(s3, ec2, bucket, environment, run_id, document, held, now)
        record = parse_record(environment, run_id, document, held, now())
        found = problem or record.problem or (trouble if record.outcome == "unknown" else None)
        return replace(record, problem=found)

    first = f"{since:%Y-%m-%d-%H%M%S}" if since else ""
    return in_parallel(one, [name for name in list_run_ids(s3, bucket, environment) if name >= first])


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
    instance = _mapping(document.get("instance")).get("id") or (held or {}).get("instance_id")
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


def parse_record(
    environment: str,
    run_id: str,
    document: Mapping[str, Any] | None,
    state: Mapping[str, Any] | None,
    now: datetime,
) -> RunRecord:
    """One run from its run.json and, while it holds the environment, its state file.

    Args:
        document: the decoded run.json; None when it is missing or unreadable.
        state: the state file's body if it belongs to this run.
        now: for the duration of a run that goes on.
    """
    document = document or {}
    state = state or {}
    machine = _mapping(document.get("instance"))
    started = moment(document.get("started_at")) or _moment_of_id(run_id)
    ended = moment(document.get("ended_at"))
    outcome = document.get("outcome") or ("running" if state else "unknown")
    until = ended or (now if outcome == "running" else None)
    wql, baseline = _losses(_mapping(document.get("metrics")))
    return RunRecord(
        run_id=run_id,
        environment=environment,
        outcome=str(outcome),
        failed_step=_text(document.get("failed_step")),
        current_step=_text(state.get("current_step")) if outcome == "running" else None,
        error=_text(document.get("error")) or _text(state.get("error_message")),
        started_at=started,
        ended_at=ended,
        duration_seconds=max(0.0, (until - started).total_seconds()) if until and started else None,
        cost_usd=cost_until(document, now) if outcome == "running" else _cost(document),
        wql=wql,
        baseline_wql=baseline,
        instance_type=_text(machine.get("type")) or _text(state.get("instance_type")),
        instance_id=_text(machine.get("id")) or _text(state.get("instance_id")),
        nodes=nodes_of(state, document),
        resume_from=_text(document.get("resume_from")),
        **{name: _step(document.get(name)) for name in _STEPS},
        usage=usage_of(document, now, state) if started else None,
        problem="run.json has no end, and no state file holds the run" if outcome == "unknown" else None,
    )


def _cost(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return _mapping(document.get("cost_usd")) or None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _step(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def moment(value: object) -> datetime | None:
    """A time from a record, or None when it is not one."""
    try:
        return from_text(str(value))
    except ValueError:
        return None


def _moment_of_id(run_id: str) -> datetime | None:
    try:
        return datetime.strptime(run_id, "%Y-%m-%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _losses(metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The model's and the baseline's loss; a trainer's `final` event may be nested or flat."""
    model = _mapping(metrics.get("metrics")) or metrics
    baseline = _mapping(_mapping(metrics.get("baselines")).get("seasonal_naive"))
    return _number(model.get("WQL")), _number(baseline.get("WQL"))


def _number(value: object) -> float | None:
    number = number_of(value)
    return None if number is None else float(number)


def print_runs(records: Sequence[RunRecord], out: TextIO, *, as_json: bool = False) -> None:
    """Print runs as a table (drawn on a terminal, plain columns elsewhere) or as a JSON list."""
    if as_json:
        out.write(json.dumps([record.to_json() for record in records], indent=2) + "\n")
        return
    if not records:
        out.write("no runs yet\n")
        return
    rows = [_row(record) for record in records]
    if out.isatty():
        _draw(rows, out)
    else:
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        for row in (_HEADINGS, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            out.write("  ".join(cells).rstrip() + "\n")
    for record in records:
        if record.usage is not None:
            out.write(f"{record.run_id}: {record.usage.sentence}\n")
    for record in records:
        if record.problem:
            out.write(f"{record.run_id}: {record.problem}\n")
    for line in unfinished(records):
        out.write(f"{line}\n")


def _row(record: RunRecord) -> tuple[str, ...]:
    step = f" ({record.current_step})" if record.current_step else ""
    return (
        record.run_id,
        record.outcome + step,
        record.failed_step or "-",
        f"{record.started_at:%m-%d %H:%M}" if record.started_at else "-",
        span_text(record.duration_seconds) if record.duration_seconds is not None else "-",
        cost_text(record.cost_usd) or "-",
        "-" if record.wql is None else f"{record.wql:.4f}",
        "-" if record.baseline_wql is None else f"{record.baseline_wql:.4f}",
        (f"{record.nodes} x " if record.nodes > 1 else "") + (record.instance_type or "-"),
    )


def _draw(rows: Sequence[tuple[str, ...]], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"succeeded": "green", "running": "cyan", "unknown": "yellow"}
    table = Table(*_HEADINGS, box=None, padding=(0, 1), pad_edge=False)
    for row in rows:
        colour = colours.get(row[1].split()[0], "red")
        table.add_row(Text(row[0]), Text(row[1], style=colour), *map(Text, row[2:]))
    Console(file=out).print(table)
