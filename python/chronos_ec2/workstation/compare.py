"""Runs side by side: what was asked for and what came of it, with a mark where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from chronos_ec2.errors import UsageProblem
from chronos_ec2.report.run_files import flat, mapping, moment, number
from chronos_ec2.words import span_text
from chronos_ec2.workstation.run_cost import cost_text
from chronos_ec2.workstation.run_ids import list_run_ids, no_such_run, run_prefix
from chronos_ec2.workstation.run_metrics import read_training
from chronos_ec2.workstation.s3 import get_json, in_parallel

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MARK: Final = "*"
_WIDEST: Final = 40
_SAME_FOR_NO_TWO: Final = frozenset({"config.run_id"})


@dataclass(frozen=True, slots=True)
class Row:
    """One fact of all runs; None where a run does not have it."""

    name: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs do not all say the same."""
        return len(set(self.values)) > 1


def compare(s3: S3Client, bucket: str, environment: str, run_ids: Sequence[str]) -> list[Row]:
    """The facts of some runs, in the order of the runs.

    Raises:
        UsageProblem: fewer than two different runs.
        NoSuchRun: one has no record; names the runs there are.
    """
    if len(set(run_ids)) < 2:
        raise UsageProblem("compare takes two different run ids or more; invoke runs lists them")

    def facts_of(run_id: str) -> dict[str, str]:
        prefix = run_prefix(environment, run_id)
        record = get_json(s3, bucket, f"{prefix}run.json")
        if record is None:
            raise no_such_run(environment, run_id, list_run_ids(s3, bucket, environment))
        return dict(_facts(record, read_training(s3, bucket, prefix)))

    found = in_parallel(facts_of, run_ids)
    names = dict.fromkeys(name for facts in found for name in facts)
    return [Row(name, tuple(facts.get(name) for facts in found)) for name in names]


def _facts(record: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What came of it first, then what was asked for."""
    for name in ("outcome", "failed_step", "error"):
        if record.get(name) is not None:
            yield name, str(record[name])
    start, end = moment(record.get("started_at")), moment(record.get("ended_at"))
    if start and end:
        yield "duration", span_text((end - start).total_seconds())
    cost = mapping(record.get("cost_usd"))
    if number(cost.get("total")) is not None:
        yield "cost", str(cost_text(cost))
    metrics = {"metrics": training.get("metrics"), "baselines": training.get("baselines")}
    yield from flat(metrics if training else {"metrics": record.get("metrics")})
    git = mapping(record.get("git"))
    if git.get("commit"):
        yield "git.commit", str(git["commit"])[:12] + ("+" if git.get("dirty") else "")
    machine = mapping(record.get("instance"))
    kept = ("type", "market", "zone")
    yield from flat({"instance": {key: machine[key] for key in kept if key in machine}})
    yield from (fact for fact in flat({"config": record.get("config")}) if fact[0] not in _SAME_FOR_NO_TWO)
    data = mapping(record.get("dataset"))
    yield from flat({"data": {key: data.get(key) for key in ("series", "rows", "manifest_sha256")}})
    yield from flat({"versions": training.get("versions")})
    environment = mapping(record.get("environment_archive"))
    yield from flat(
        {"environment_sha256": environment.get("sha256"), "scripts_sha256": record.get("scripts_sha256")}
    )


def print_comparison(
    rows: Sequence[Row],
    run_ids: Sequence[str],
    out: TextIO,
    *,
    everything: bool = False,
    as_json: bool = False,
) -> None:
    """Print the rows in which runs differ, or all of them with a mark at those; or one JSON object."""
    if as_json:
        facts = [{"name": row.name, "values": list(row.values), "differs": row.differs} for row in rows]
        out.write(json.dumps({"runs": list(run_ids), "facts": facts}, indent=2) + "\n")
        return
    shown = [row for row in rows if everything or row.differs]
    table = [("", "", *run_ids)]
    table += [(MARK if row.differs else "", _plain(row.name), *_cells(row)) for row in shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        out.write(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        )
    same = len(rows) - sum(row.differs for row in rows)
    if not everything:
        out.write(f"{same} facts are the same in all of them (--everything shows them)\n")


def _cells(row: Row) -> list[str]:
    """A line a value that a terminal can show: of one that is long, where the values differ."""
    lines = ["-" if value is None else _plain(value) for value in row.values]
    columns = zip(*(line for line in lines if line != "-"), strict=False)
    alike = next((place for place, signs in enumerate(columns) if len(set(signs)) > 1), 0)
    return [_cut(line, alike) for line in lines]


def _plain(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _cut(line: str, alike: int) -> str:
    """At most `_WIDEST` characters of a line, with what comes behind the first `alike` of them."""
    if len(line) <= _WIDEST:
        return line
    begin = max(0, alike - _WIDEST // 2)
    cut = f"…{line[begin + 1 :]}" if begin else line
    return cut if len(cut) <= _WIDEST else f"{cut[: _WIDEST - 1]}…"
