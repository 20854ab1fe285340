"""The history of runs, printed: a table for a person, a list for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, TextIO

from chronos_ec2.words import span_text
from chronos_ec2.workstation.next_step import unfinished
from chronos_ec2.workstation.run_cost import cost_text
from chronos_ec2.workstation.run_record import RunRecord

HEADLINE: Final = "WQL"
_COMMIT_LETTERS: Final = 8
_METRIC: Final = 6
_LEAST_TELLING: Final = (
    *("COMMIT", "BASELINE", "STARTED (UTC)", "INSTANCE", "FAILED STEP"),
    *("", "DURATION", "COST"),
)
"""The columns in the order in which a narrow terminal loses them; the empty name is the metric's."""


def print_runs(
    records: Sequence[RunRecord],
    out: TextIO,
    *,
    metric: str = HEADLINE,
    filtered: bool = False,
    as_json: bool = False,
) -> None:
    """Print runs as a table (drawn on a terminal, plain columns elsewhere) or as a JSON list.

    Args:
        metric: which figure is shown of each run, and of its seasonal-naive forecast.
        filtered: whether runs were left out, so that an empty list does not say that there is none.
    """
    if as_json:
        out.write(json.dumps([record.to_json() for record in records], indent=2) + "\n")
        return
    if not records:
        out.write("no run like that\n" if filtered else "no runs yet\n")
        return
    headings = _headings(metric)
    rows = [_row(record, metric) for record in records]
    if out.isatty():
        _draw(headings, rows, out)
    else:
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        for row in (headings, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            out.write("  ".join(cells).rstrip() + "\n")
    for record in records:
        if record.usage is not None:
            out.write(f"{record.run_id}: {record.usage.sentence}\n")
    for record in records:
        if record.problem:
            out.write(f"{record.run_id}: {record.problem}\n")
    figures = sorted({name for record in records for name in record.metrics})
    if figures and metric not in figures:
        out.write(f"none of these runs has the figure {metric!r}; they have {', '.join(figures)}\n")
    for line in unfinished(records):
        out.write(f"{line}\n")


def _headings(metric: str) -> tuple[str, ...]:
    first = ("RUN", "OUTCOME", "FAILED STEP", "STARTED (UTC)", "DURATION", "COST")
    return (*first, metric, "BASELINE", "INSTANCE", "COMMIT")


def _row(record: RunRecord, metric: str) -> tuple[str, ...]:
    step = f" ({record.current_step})" if record.current_step else ""
    return (
        record.run_id,
        record.outcome + step,
        record.failed_step or "-",
        f"{record.started_at:%m-%d %H:%M}" if record.started_at else "-",
        span_text(record.duration_seconds) if record.duration_seconds is not None else "-",
        cost_text(record.cost_usd) or "-",
        _figure(record.metrics.get(metric)),
        _figure(record.baseline_metrics.get(metric)),
        (f"{record.nodes} x " if record.nodes > 1 else "") + (record.instance_type or "-"),
        _short(record.git_commit),
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(commit: str | None) -> str:
    """The first letters of a commit, and the mark of changed files."""
    if commit is None:
        return "-"
    return commit[:_COMMIT_LETTERS] + ("+" if commit.endswith("+") else "")


def _draw(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    colours = {"succeeded": "green", "running": "cyan", "unknown": "yellow"}
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    places = fitting(headings, rows, console.width)
    for place in places:
        widest = max(len(row[place]) for row in rows) if place == 0 else None
        table.add_column(headings[place], no_wrap=True, min_width=widest)
    for row in rows:
        colour = colours.get(row[1].split()[0], "red")
        table.add_row(*(Text(row[place], style=colour if place == 1 else "") for place in places))
    console.print(table)


def fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that a terminal has room for; what says least about a run goes first."""
    widths = [max(map(len, column)) + 2 for column in zip(headings, *rows, strict=True)]
    kept = list(range(len(headings)))
    for name in _LEAST_TELLING:
        if sum(widths[place] for place in kept) - 2 <= width:
            break
        kept.remove(headings.index(name) if name else _METRIC)
    return kept
