"""What can only be seen across rows and files: duplicates, gaps, order, series that are too short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.workstation.dataset import Findings, Severity
from chronos_ec2.workstation.dataset_files import RowBlock

_DAY: Final = 24 * 3600 * 1_000_000
_CALENDAR_DAYS: Final = ((28, 31), (90, 92), (365, 366))
_UNITS: Final = ((_DAY, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """All rows, sorted by series and time; equal ones in the order of files and rows."""

    files: list[str]
    names: list[str]
    file: NDArray[np.int64]
    row: NDArray[np.int64]
    code: NDArray[np.int64]
    time: NDArray[np.int64]


def check_rows(blocks: Sequence[RowBlock], min_length: int, findings: Findings) -> int:
    """Check rows against each other.

    Args:
        blocks: the rows of each file.
        min_length: how many rows make a series usable.
        findings: what is wrong goes here.

    Returns:
        How many series there are.
    """
    if not blocks:
        return 0
    names, codes = _number_series(blocks)
    for block in blocks:
        _check_order(block, findings)
    known = np.concatenate([block.known for block in blocks])
    _check_lengths(blocks, names, codes, known, min_length, findings)
    rows = _sort(blocks, names, codes)
    same = np.diff(rows.code) == 0
    step = np.diff(rows.time)
    _check_duplicates(rows, np.flatnonzero(same & (step == 0)), findings)
    _check_gaps(rows, np.flatnonzero(same & (step > 0)), step, findings)
    return len(names)


def _number_series(blocks: Sequence[RowBlock]) -> tuple[list[str], NDArray[np.int64]]:
    places: dict[str, int] = {}
    for block in blocks:
        for name in block.names:
            places.setdefault(name, len(places))
    codes = [
        np.array([places[name] for name in block.names], dtype=np.int64)[block.codes] for block in blocks
    ]
    return list(places), np.concatenate(codes)


def _sort(blocks: Sequence[RowBlock], names: list[str], codes: NDArray[np.int64]) -> _Rows:
    file = np.repeat(np.arange(len(blocks)), [len(block.rows) for block in blocks])
    row = np.concatenate([block.rows for block in blocks])
    time = np.concatenate([block.times for block in blocks])
    ahead = np.diff(codes)
    if not np.all((ahead > 0) | ((ahead == 0) & (np.diff(time) >= 0))):
        order = np.lexsort((time, codes))
        file, row, codes, time = file[order], row[order], codes[order], time[order]
    return _Rows([block.file for block in blocks], names, file, row, codes, time)


def _check_order(block: RowBlock, findings: Findings) -> None:
    order = np.argsort(block.codes, kind="stable")
    codes, times = block.codes[order], block.times[order]
    late = order[1:][(np.diff(codes) == 0) & (np.diff(times) < 0)]
    late.sort()

    def message(number: int) -> str:
        name, moment = block.names[block.codes[late[number]]], block.times[late[number]]
        return f"series {_name(name)} goes back to {_moment(moment)}; training sorts by time, was it meant?"

    findings.add_rows(
        "warning",
        "unsorted",
        block.file,
        [int(block.rows[position]) for position in late],
        message,
        column="timestamp",
    )


def _check_lengths(
    blocks: Sequence[RowBlock],
    names: list[str],
    codes: NDArray[np.int64],
    known: NDArray[np.bool_],
    min_length: int,
    findings: Findings,
) -> None:
    lengths = np.bincount(codes, minlength=len(names))
    valued = np.bincount(codes[known], minlength=len(names))
    files = np.repeat(np.arange(len(blocks)), [len(block.rows) for block in blocks])
    first = np.full(len(names), len(blocks), dtype=np.int64)
    np.minimum.at(first, codes, files)
    for code in np.flatnonzero((lengths < min_length) | (valued == 0)):
        fault = f"{lengths[code]} rows, {min_length} needed" if valued[code] else "no known target at all"
        message = f"series {_name(names[code])} has {fault}: it is left out of training"
        findings.add("warning", "short-series", message, file=blocks[first[code]].file)
    if not np.any((lengths >= min_length) & (valued > 0)):
        longest = int(lengths.max()) if lengths.size else 0
        findings.add(
            "error",
            "no-series",
            f"no series can be trained on: the longest has {longest} rows, {min_length} are needed; bring "
            "longer series or lower context_length and prediction_length",
        )


def _check_duplicates(rows: _Rows, earlier: NDArray[np.int64], findings: Findings) -> None:
    def message(position: int) -> str:
        before = position - 1
        where = f"row {rows.row[before]} of {rows.files[rows.file[before]]!r}"
        return (
            f"series {_name(rows.names[rows.code[position]])} has {_moment(rows.time[position])} already "
            f"({where}); keep one"
        )

    _add_by_file(findings, "error", "duplicate", rows, earlier + 1, message)


def _check_gaps(rows: _Rows, earlier: NDArray[np.int64], step: NDArray[np.int64], findings: Findings) -> None:
    if not earlier.size:
        return
    usual = _usual_steps(rows.code[earlier], step[earlier], len(rows.names))
    expected = usual[rows.code[earlier]]
    odd = earlier[(step[earlier] != expected) & ~_same_calendar_unit(step[earlier], expected)]

    def message(position: int) -> str:
        took, normal = int(step[position - 1]), int(usual[rows.code[position]])
        lacking = f"{took // normal - 1} missing" if took > normal and took % normal == 0 else "uneven"
        return (
            f"series {_name(rows.names[rows.code[position]])} takes {_span(took)} to "
            f"{_moment(rows.time[position])} where {_span(normal)} is usual ({lacking}); training takes rows "
            "as evenly spaced: add the missing ones with an empty target"
        )

    _add_by_file(findings, "warning", "gap", rows, odd + 1, message)


def _usual_steps(codes: NDArray[np.int64], steps: NDArray[np.int64], series: int) -> NDArray[np.int64]:
    """The most common step of each series, the shortest of equals; `codes` must not fall."""
    usual = np.zeros(series, dtype=np.int64)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    shortest, longest = np.minimum.reduceat(steps, starts), np.maximum.reduceat(steps, starts)
    usual[codes[starts]] = shortest
    # Most series are even: only the others are worth a sort.
    uneven = np.zeros(series, dtype=bool)
    uneven[codes[starts][shortest != longest]] = True
    chosen = uneven[codes]
    if not chosen.any():
        return usual
    order = np.lexsort((steps[chosen], codes[chosen]))
    code, step = codes[chosen][order], steps[chosen][order]
    runs = np.flatnonzero((np.diff(code, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 0))
    counts = np.diff(runs, append=len(step))
    best = np.lexsort((step[runs], -counts, code[runs]))
    firsts = best[np.flatnonzero(np.diff(code[runs][best], prepend=-1))]
    usual[code[runs][firsts]] = step[runs][firsts]
    return usual


def _same_calendar_unit(step: NDArray[np.int64], usual: NDArray[np.int64]) -> NDArray[np.bool_]:
    same = np.zeros(len(step), dtype=bool)
    for least, most in _CALENDAR_DAYS:
        low, high = least * _DAY, most * _DAY
        same |= (step >= low) & (step <= high) & (usual >= low) & (usual <= high)
    return same


def _add_by_file(
    findings: Findings,
    severity: Severity,
    kind: str,
    rows: _Rows,
    positions: NDArray[np.int64],
    message: Callable[[int], str],
) -> None:
    for number in np.unique(rows.file[positions]):
        here = positions[rows.file[positions] == number]
        here = here[np.argsort(rows.row[here])]
        findings.add_rows(
            severity,
            kind,
            rows.files[number],
            [int(row) for row in rows.row[here]],
            lambda n, here=here: message(int(here[n])),  # type: ignore[misc]
            column="timestamp",
        )


def _name(name: str) -> str:
    shown = name if len(name) <= 60 else f"{name[:57]}..."
    return ascii(shown) if not shown.isprintable() else repr(shown)


def _moment(microseconds: np.int64 | int) -> str:
    text = str(np.datetime64(int(microseconds), "us"))
    return text.removesuffix(".000000").removesuffix(":00")


def _span(microseconds: int) -> str:
    for size, unit in _UNITS:
        if microseconds % size == 0:
            return f"{microseconds // size} {unit}"
    return f"{microseconds / 1e6:g} s"
