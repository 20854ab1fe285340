"""What runs have cost together: the records added up by environment and outcome."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

from chronos_ec2.errors import UsageProblem
from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.words import money_text
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.run_cost import PARTS, number_of, rounded
from chronos_ec2.workstation.run_record import RunRecord
from chronos_ec2.workstation.runs import list_runs

_AGO: Final = re.compile(r"([0-9]{1,4})([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_HEADINGS: Final = ("ENVIRONMENT", "OUTCOME", "RUNS", "HOURS", *(part.upper() for part in PARTS), "TOTAL")
SHOWN_UNKNOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The runs of one environment that ended alike, in hours and US dollars.

    Attributes:
        unknown: ids of the runs that are not in it, because nobody knows what they cost.
        at_most: how many of them cost this or less: nobody saw their end.
    """

    environment: str
    outcome: str
    runs: int = 0
    hours: float = 0.0
    compute: float = 0.0
    disk: float = 0.0
    requests: float = 0.0
    address: float = 0.0
    total: float = 0.0
    at_most: int = 0
    unknown: tuple[str, ...] = ()


def parse_since(text: str | None, now: datetime) -> datetime | None:
    """The beginning of a period: a day (UTC) like 2026-11-01, or so long ago like 7d, 12h, 2w.

    Raises:
        UsageProblem: it is neither.
    """
    if not text:
        return None
    if ago := _AGO.fullmatch(text):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageProblem(f"--since: got {text!r}, need a day like 2026-11-01, or 7d, 12h, 2w") from None


def add_up(records: Iterable[RunRecord]) -> list[Sum]:
    """The records' costs by environment and outcome; a run that goes on counts as far as it is."""
    sums: dict[tuple[str, str], Sum] = {}
    for record in records:
        key = (record.environment, record.outcome)
        sums[key] = _plus(sums.get(key) or Sum(environment=key[0], outcome=key[1]), record)
    return [sums[key] for key in sorted(sums)]


def grand_total(sums: Sequence[Sum]) -> Sum:
    """All of them together."""
    numbers = {name: rounded(sum(getattr(each, name) for each in sums)) for name in (*PARTS, "total")}
    return Sum(
        environment="all",
        outcome="",
        runs=sum(each.runs for each in sums),
        hours=round(sum(each.hours for each in sums), 3),
        at_most=sum(each.at_most for each in sums),
        unknown=tuple(run_id for each in sums for run_id in each.unknown),
        **numbers,
    )


def _plus(so_far: Sum, record: RunRecord) -> Sum:
    cost = record.cost_usd or {}
    known = {name: number_of(cost.get(name)) for name in (*PARTS, "total", "seconds")}
    numbers: dict[str, Any] = {
        name: rounded(getattr(so_far, name) + float(value))
        for name, value in known.items()
        if value is not None and name != "seconds"
    }
    seconds = known["seconds"]
    if seconds is not None:
        numbers["hours"] = round(so_far.hours + float(seconds) / 3600, 3)
    if None in known.values():
        # What is known of it counts: the sums are then at least as high as they say.
        numbers["total"] = rounded(so_far.total + sum(float(known[name] or 0) for name in PARTS))
        return replace(so_far, runs=so_far.runs + 1, unknown=(*so_far.unknown, record.run_id), **numbers)
    return replace(
        so_far, runs=so_far.runs + 1, at_most=so_far.at_most + bool(cost.get("at_most")), **numbers
    )


def show_costs(
    aws: Aws, environments: Sequence[str], since: str | None, out: TextIO, *, as_json: bool = False
) -> None:
    """Add up the runs of some environments that live in one account and region, and print that.

    Args:
        since: as for `parse_since`; None means all runs.
    """
    beginning = parse_since(since, utc_now())
    records = (
        record
        for environment in environments
        for record in list_runs(aws.s3, aws.bucket, environment, ec2=aws.ec2, since=beginning, now=aws.clock)
    )
    print_costs(add_up(records), out, since=beginning, as_json=as_json)


def print_costs(
    sums: Sequence[Sum], out: TextIO, *, since: datetime | None = None, as_json: bool = False
) -> None:
    """Print sums as a table with a last line for all of them, or as one JSON object."""
    total = grand_total(sums)
    if as_json:
        shown = {"since": to_text(since) if since else None, "sums": [_as_json(each) for each in sums]}
        out.write(json.dumps({**shown, "total": _as_json(total)}, indent=2) + "\n")
        return
    if not sums:
        out.write("no runs" + (f" since {to_text(since)}" if since else " yet") + "\n")
        return
    rows = [_HEADINGS, *map(_row, sums), _row(total)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        out.write("  ".join([*words, *numbers]) + "\n")
    for line in _remarks(sums, total):
        out.write(line + "\n")


def _as_json(each: Sum) -> dict[str, Any]:
    return {**asdict(each), "unknown": list(each.unknown)}


def _row(each: Sum) -> tuple[str, ...]:
    dollars = [money_text(getattr(each, name)) for name in (*PARTS, "total")]
    if each.unknown:
        dollars[-1] = f"at least {dollars[-1]}" if each.total else "not known"
    return (each.environment, each.outcome, str(each.runs), f"{each.hours:.1f}", *dollars)


def _remarks(sums: Sequence[Sum], total: Sum) -> Iterator[str]:
    if going := sum(each.runs for each in sums if each.outcome == "running"):
        yield f"runs that go on, counted so far: {going}"
    if total.at_most:
        yield f"runs whose end nobody saw, counted at the most they can have cost: {total.at_most}"
    if total.unknown:
        more = len(total.unknown) - SHOWN_UNKNOWN
        named = ", ".join(total.unknown[:SHOWN_UNKNOWN]) + (f" and {more} more" if more > 0 else "")
        yield f"runs of which nobody knows all that they cost: {named}"
    yield "what S3 keeps afterwards (about $0.023 per GB and month) is not in it"
