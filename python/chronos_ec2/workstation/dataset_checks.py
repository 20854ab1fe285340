"""What can only be seen across rows and files: duplicates, gaps, order, series that are too short."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.flat import runs_of_series
from chronos_ec2.data.series import nothing_to_score
from chronos_ec2.data.steps import is_gap, missing_between, usual_steps, without_weekends
from chronos_ec2.workstation.dataset import FOLDER, Findings, Severity
from chronos_ec2.workstation.dataset_rows import FileTally, FlatRows, read_rows

_DAY: Final = 24 * 3600 * 1_000_000
_UNITS: Final = ((_DAY, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of some series, which lie behind each other."""

    flat: FlatRows
    names: list[str]
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    code: NDArray[np.int64]
    """Which of `names` each row belongs to; never falls."""
    time: NDArray[np.int64]
    known: NDArray[np.bool_]
    """Whether it has a target."""

    def sorted_by_time(self) -> _Rows:
        """The same, each series sorted by time; equal times in the order of files and rows."""
        if not ((np.diff(self.code) == 0) & (np.diff(self.time) < 0)).any():
            return self
        order = np.lexsort((self.time, self.code))
        file, row, time = self.file[order], self.row[order], self.time[order]
        return replace(self, file=file, row=row, time=time, known=self.known[order])


def check_rows(
    paths: Sequence[Path], columns: Columns, min_length: int, held_out: int, findings: Findings
) -> list[FileTally]:
    """Read files, and check their rows against each other.

    Args:
        paths: the files.
        columns: what training will read.
        min_length: how many rows make a series usable.
        held_out: the last rows of each series, from which nothing is learned.
        findings: what is wrong goes here.

    Returns:
        What each file holds.
    """
    with tempfile.TemporaryDirectory(prefix="chronos-check-") as scratch:
        flat, tallies = read_rows(paths, columns, findings, Path(scratch))
        usable = _Usable(flat, min_length, held_out)
        for first, end in runs_of_series(flat.places.offsets):
            rows = _rows_of(flat, first, end)
            _check_order(rows, findings)
            rows = rows.sorted_by_time()
            usable.check(rows, first, findings)
            same, step = np.diff(rows.code) == 0, np.diff(rows.time)
            _check_duplicates(rows, np.flatnonzero(same & (step == 0)), min_length, findings)
            _check_gaps(rows, same & (step > 0), step, findings)
        if paths:
            usable.report(findings)
    return tallies


def _rows_of(flat: FlatRows, first: int, end: int) -> _Rows:
    offsets = flat.places.offsets[first : end + 1]
    part = slice(offsets[0], offsets[-1])
    used = flat.file[part] >= 0
    code = np.repeat(np.arange(end - first), np.diff(offsets))[used]
    names = flat.places.ids[first:end]
    return _Rows(
        flat=flat,
        names=names,
        file=flat.file[part][used],
        row=flat.row[part][used],
        code=code,
        time=flat.time[part][used],
        known=flat.known[part][used],
    )


def _check_order(rows: _Rows, findings: Findings) -> None:
    back = (np.diff(rows.code) == 0) & (np.diff(rows.file) == 0) & (np.diff(rows.time) < 0)

    def message(position: int) -> str:
        name, moment = rows.names[rows.code[position]], rows.time[position]
        return f"series {_name(name)} goes back to {_moment(moment)}; training sorts by time, was it meant?"

    _add_by_file(findings, "warning", "unsorted", rows, np.flatnonzero(back) + 1, message)


class _Usable:
    """Which series can be learned from, and which be scored by."""

    def __init__(self, flat: FlatRows, min_length: int, held_out: int) -> None:
        self._flat, self._min_length, self._held_out = flat, min_length, held_out
        self._usable = self._unscored = 0

    def check(self, rows: _Rows, first: int, findings: Findings) -> None:
        """Look at some series, sorted by time, of which the first one has this number."""
        lengths = np.bincount(rows.code, minlength=len(rows.names))
        ahead = np.cumsum(lengths)[rows.code] - np.arange(len(rows.code)) <= self._held_out

        def known(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.bincount(rows.code[rows.known & where], minlength=len(rows.names)) > 0

        behind, scored = known(~ahead), known(ahead)
        usable = (lengths >= self._min_length) & behind
        self._usable += int(usable.sum())
        self._unscored += int((usable & ~scored).sum()) if self._held_out else 0
        for number in np.flatnonzero(~usable).tolist():
            offset, end = self._flat.places.offsets[first + number : first + number + 2]
            if lengths[number] == 0 < end - offset:
                continue  # something is wrong with all of its rows, and was said
            if lengths[number] < self._min_length:
                fault = f"{lengths[number]} rows, {self._min_length} needed"
            elif scored[number]:
                fault = f"no known target before its last {self._held_out} rows, which are held out"
            else:
                fault = "no known target at all"
            message = f"series {_name(rows.names[number])} has {fault}: it is left out of training"
            file = self._flat.files[self._flat.file[offset]] if end > offset else FOLDER
            findings.add("warning", "short-series", message, file=file)

    def report(self, findings: Findings) -> None:
        """Say what is true of all series together."""
        if not self._usable:
            filled = self._flat.places.filled
            findings.add(
                "error",
                "no-series",
                f"no series can be trained on: the longest has {filled.max(initial=0)} rows, "
                f"{self._min_length} are needed, with a target to learn from; bring longer series or lower "
                "context_length and prediction_length",
            )
        elif self._unscored == self._usable:
            findings.add("error", "nothing-to-score", str(nothing_to_score(self._held_out)))
        elif self._unscored:
            findings.add(
                "warning",
                "unscored",
                f"{self._unscored} series have no target in their last {self._held_out} rows: they are not "
                "scored",
            )


def _check_duplicates(rows: _Rows, earlier: NDArray[np.int64], min_length: int, findings: Findings) -> None:
    """An error where training would refuse it; a series too short for training is never read there."""

    def message(position: int) -> str:
        before = position - 1
        where = f"row {rows.row[before]} of {rows.flat.files[rows.file[before]]!r}"
        return (
            f"series {_name(rows.names[rows.code[position]])} has {_moment(rows.time[position])} already "
            f"({where}); keep one"
        )

    read = np.bincount(rows.code)[rows.code[earlier]] >= min_length
    _add_by_file(findings, "error", "duplicate", rows, earlier[read] + 1, message)
    _add_by_file(findings, "warning", "duplicate", rows, earlier[~read] + 1, message)


def _check_gaps(rows: _Rows, inside: NDArray[np.bool_], steps: NDArray[np.int64], findings: Findings) -> None:
    code = rows.code[1:]
    usual = usual_steps(code[inside], steps[inside], len(rows.names))
    working, _ = without_weekends(rows.code, rows.time, steps, usual)
    odd = np.flatnonzero(inside)[is_gap(working[inside], usual[code[inside]])]

    def message(position: int) -> str:
        normal = int(usual[rows.code[position]])
        missing = missing_between(int(working[position - 1]), normal)
        said = (
            f"series {_name(rows.names[rows.code[position]])} takes {_span(int(steps[position - 1]))} to "
            f"{_moment(rows.time[position])} where {_span(normal)} is usual"
        )
        even = "training takes rows as evenly spaced"
        return (
            f"{said} ({missing} missing); {even}: add them with an empty target"
            if missing
            else f"{said}; {even}"
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
            rows.flat.files[number],
            [int(row) for row in rows.row[here]],
            lambda n, here=here: message(int(here[n])),  # type: ignore[misc]
            column=rows.flat.time_columns[number],
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
