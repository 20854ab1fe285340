"""What can only be seen across rows and files: duplicates, gaps, order, series that are too short."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.flat import runs_of_series
from chronos_ec2.data.steps import is_gap, usual_steps
from chronos_ec2.workstation.dataset import Findings, Severity
from chronos_ec2.workstation.dataset_rows import FileTally, FlatRows, read_rows

_DAY: Final = 24 * 3600 * 1_000_000
_UNITS: Final = ((_DAY, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of some series, which lie behind each other."""

    files: list[str]
    names: list[str]
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    code: NDArray[np.int64]
    """Which of `names` each row belongs to; never falls."""
    time: NDArray[np.int64]

    def sorted_by_time(self) -> _Rows:
        """The same, each series sorted by time; equal times in the order of files and rows."""
        if not ((np.diff(self.code) == 0) & (np.diff(self.time) < 0)).any():
            return self
        order = np.lexsort((self.time, self.code))
        file, row, time = self.file[order], self.row[order], self.time[order]
        return _Rows(self.files, self.names, file, row, self.code, time)


def check_rows(
    paths: Sequence[Path], columns: Columns, min_length: int, findings: Findings
) -> list[FileTally]:
    """Read files, and check their rows against each other.

    Args:
        paths: the files.
        columns: what training will read.
        min_length: how many rows make a series usable.
        findings: what is wrong goes here.

    Returns:
        What each file holds.
    """
    with tempfile.TemporaryDirectory(prefix="chronos-check-") as scratch:
        flat, tallies = read_rows(paths, columns, findings, Path(scratch))
        if paths:
            _check_lengths(flat, min_length, findings)
        for first, end in runs_of_series(flat.places.offsets):
            rows = _rows_of(flat, first, end)
            _check_order(rows, findings)
            rows = rows.sorted_by_time()
            same, step = np.diff(rows.code) == 0, np.diff(rows.time)
            _check_duplicates(rows, np.flatnonzero(same & (step == 0)), findings)
            _check_gaps(rows, np.flatnonzero(same & (step > 0)), step, findings)
    return tallies


def _rows_of(flat: FlatRows, first: int, end: int) -> _Rows:
    offsets = flat.places.offsets[first : end + 1]
    part = slice(offsets[0], offsets[-1])
    used = flat.file[part] >= 0
    code = np.repeat(np.arange(end - first), np.diff(offsets))[used]
    names = flat.places.ids[first:end]
    return _Rows(flat.files, names, flat.file[part][used], flat.row[part][used], code, flat.time[part][used])


def _check_order(rows: _Rows, findings: Findings) -> None:
    back = (np.diff(rows.code) == 0) & (np.diff(rows.file) == 0) & (np.diff(rows.time) < 0)

    def message(position: int) -> str:
        name, moment = rows.names[rows.code[position]], rows.time[position]
        return f"series {_name(name)} goes back to {_moment(moment)}; training sorts by time, was it meant?"

    _add_by_file(findings, "warning", "unsorted", rows, np.flatnonzero(back) + 1, message)


def _check_lengths(flat: FlatRows, min_length: int, findings: Findings) -> None:
    lengths, known = flat.places.filled, flat.known
    usable = (lengths >= min_length) & (known > 0)
    for number in np.flatnonzero(~usable & (lengths > 0)):
        fault = f"{lengths[number]} rows, {min_length} needed" if known[number] else "no known target at all"
        message = f"series {_name(flat.places.ids[number])} has {fault}: it is left out of training"
        file = flat.files[flat.file[flat.places.offsets[number]]]
        findings.add("warning", "short-series", message, file=file)
    if not usable.any():
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
    usual = usual_steps(rows.code[earlier], step[earlier], len(rows.names))
    odd = earlier[is_gap(step[earlier], usual[rows.code[earlier]])]

    def message(position: int) -> str:
        took, normal = int(step[position - 1]), int(usual[rows.code[position]])
        lacking = f"{took // normal - 1} missing" if took > normal and took % normal == 0 else "uneven"
        return (
            f"series {_name(rows.names[rows.code[position]])} takes {_span(took)} to "
            f"{_moment(rows.time[position])} where {_span(normal)} is usual ({lacking}); training takes rows "
            "as evenly spaced: add the missing ones with an empty target"
        )

    _add_by_file(findings, "warning", "gap", rows, odd + 1, message)


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
