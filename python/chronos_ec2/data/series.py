"""Load a folder of Parquet files for training.

All series lie behind each other in flat arrays, cut by offsets; a series may span files, and files and rows
may come in any order. Rows are taken as evenly spaced: gaps are counted, and no row is invented. The files
are read twice, first for the lengths of the series and then for their values, each of which goes straight to
its place; so arrays on disk serve as well as arrays in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.flat import Places, allocator, order_by_time, order_of, runs_of_series
from chronos_ec2.data.problems import Refusal
from chronos_ec2.data.reader import ParquetSource
from chronos_ec2.data.steps import is_gap, usual_steps, without_weekends
from chronos_ec2.errors import DataInvalid

_HASHED_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Every usable series, sorted by id, each sorted by time.

    Series i is `[offsets[i]:offsets[i + 1]]` of the flat arrays.
    """

    columns: Columns
    ids: list[str]
    """The name of each series."""
    offsets: NDArray[np.int64]
    """Where each series starts, and where the last one ends: shape [series + 1]."""
    values: NDArray[np.float32]
    """The numbers in the order of `columns.variates`, NaN where one is missing: shape [variates, rows]."""
    times: NDArray[np.int64]
    """Microseconds since 1970, UTC: shape [rows]."""
    spacing_seconds: float
    """The most common time from one row to the next."""
    rows: int
    """Rows read, those of dropped series included."""
    dropped_short: int
    """Series left out: fewer rows than asked for, or no known target to learn from."""
    gaps: int
    """How often the time to the next row is not the usual one of its series (data/steps.py)."""
    missing: int
    """Targets that are NaN."""
    files: int
    business_days: bool = False
    """Whether most series have the days from Monday to Friday alone, or other five of a week."""
    other_spacing: int = 0
    """Series whose usual step is another than `spacing_seconds`."""
    unscored: int = 0
    """Series without a known target among their last rows, which are held out."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> NDArray[np.float32]:
        """What is to be forecast: shape [targets, rows]."""
        return self.values[: len(self.columns.targets)]

    def fingerprint(self) -> str:
        """A sha256 of columns, names, times and values: equal exactly when a trainer would see the same."""
        columns = self.columns
        parts = [columns.targets, columns.past_covariates, columns.known_covariates, self.ids]
        digest = hashlib.sha256(json.dumps(parts).encode())
        for array in (self.offsets, self.times, *self.values):
            for at in range(0, len(array), _HASHED_AT_ONCE):
                digest.update(np.ascontiguousarray(array[at : at + _HASHED_AT_ONCE]).data)
        return digest.hexdigest()

    def report(self) -> dict[str, Any]:
        """The facts about the data that a run records."""
        return {
            "files": self.files,
            "rows": self.rows,
            "series": len(self),
            "dropped_short": self.dropped_short,
            "gaps": self.gaps,
            "missing_share": self.missing / max(1, self.targets.size),
            "spacing_seconds": self.spacing_seconds,
            "other_spacing": self.other_spacing,
            "unscored": self.unscored,
        }

    def warnings(self, horizon: int) -> list[str]:
        """What a person should know before training, a line each.

        Args:
            horizon: the rows of each series that are held out.
        """
        share = self.missing / max(1, self.targets.size)
        last, ahead = f"in their last {horizon} rows", self.missing_ahead(horizon)
        lines = (
            (self.dropped_short, "series too short or with nothing to learn from, left out"),
            (self.gaps, "gaps in time: rows are taken as evenly spaced"),
            (self.missing, f"targets are missing ({share:.1%}): nothing is learned from them"),
            (self.other_spacing, "series are spaced otherwise than most, whose season is taken for all"),
            (self.unscored, f"series have no target {last}: they are not scored"),
            (ahead, f"values of known covariates are missing {last}, which are forecast"),
        )
        return [f"{count} {words}" for count, words in lines if count]

    def missing_ahead(self, horizon: int) -> int:
        """Known covariates that are NaN among the last `horizon` rows of each series, which are held out."""
        first = len(self.columns.targets) + len(self.columns.past_covariates)
        held_out = self.offsets[1:, None] - np.arange(1, horizon + 1)
        return sum(int(np.isnan(variate[held_out]).sum()) for variate in self.values[first:])


def load_series(
    folder: Path,
    columns: Columns,
    min_length: int,
    *,
    held_out: int = 0,
    scratch: Path | None = None,
    memory_bytes: int | None = None,
) -> SeriesSet:
    """Read every `*.parquet` file of a folder.

    Args:
        folder: where the files lie; hidden files are passed over.
        columns: what to read.
        min_length: the fewest rows that make a series usable.
        held_out: the last rows of each series, which the forecast is scored by: a series is usable only with
            a known target before them, and one series at least must have one among them.
        scratch: a folder for arrays that do not fit into memory; None keeps them in memory anyway.
        memory_bytes: what the arrays may take of the memory; None is half of what is available.

    Returns:
        The usable series.

    Raises:
        DataInvalid: no file, an unreadable file, a missing or mistyped column, a null id or time, an infinite
            value, a time that a series has twice, no series long enough, or nothing to score a forecast by.
        ChronosError: the arrays fit neither into memory nor into `scratch`.
    """
    paths = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise DataInvalid(f"{folder} holds no .parquet file: nothing to train on")
    sources = [ParquetSource(path, columns, Refusal()) for path in paths]
    lengths = _lengths(sources)
    places = Places({name: length for name, length in lengths.items() if length >= max(1, min_length)})
    if not places.ids:
        raise _too_short(max(lengths.values(), default=0), min_length)
    rows, variates = int(places.offsets[-1]), len(columns.variates)
    allocate = allocator(rows * (8 + 4 * variates), scratch, memory_bytes)
    times = allocate("times", (rows,), np.int64)
    values = allocate("values", (variates, rows), np.float32)
    for source in sources:
        for block in source.blocks():
            places.put(block, [(block.times, times), *zip(block.values, values, strict=True)])
    if (places.filled < np.diff(places.offsets)).any():
        raise DataInvalid(f"{folder}: a file changed while it was read; start again")
    draft = _Draft(columns, places.ids, places.offsets, times, values)
    draft.sort_and_count(held_out)
    if draft.empty.all():
        raise _too_short(int(np.diff(places.offsets).max()), min_length)
    if draft.unscored[~draft.empty].all():
        raise nothing_to_score(held_out)
    return draft.finished(rows=sum(lengths.values()), series=len(lengths), files=len(paths))


def _lengths(sources: Iterable[ParquetSource]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for source in sources:
        for names, counts in source.lengths():
            for name, count in zip(names, counts.tolist(), strict=True):
                lengths[name] = lengths.get(name, 0) + count
    return lengths


def nothing_to_score(held_out: int) -> DataInvalid:
    """No series has a target in the rows that a forecast is scored by."""
    return DataInvalid(
        f"no series has a known target in its last {held_out} rows (prediction_length), by which the "
        "forecast is scored; leave out rows of the future"
    )


def _too_short(longest: int, min_length: int) -> DataInvalid:
    return DataInvalid(
        f"no series is long enough: the longest has {longest} rows and training needs {min_length} with at "
        "least one value; lower context_length and prediction_length"
    )


class _Draft:
    """The series as they were read; `sort_and_count` orders them, `finished` drops the empty ones."""

    def __init__(
        self,
        columns: Columns,
        ids: list[str],
        offsets: NDArray[np.int64],
        times: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        self._columns, self._ids, self._offsets = columns, ids, offsets
        self._times, self._values = times, values
        self._steps: Counter[int] = Counter()
        self._gaps = self._missing = 0
        self._usual = np.zeros(len(ids), dtype=np.int64)
        self._business = np.zeros(len(ids), dtype=bool)
        self.empty = np.zeros(len(ids), dtype=bool)
        """The series without a known target to learn from."""
        self.unscored = np.zeros(len(ids), dtype=bool)
        """The series without a known target among the rows that are held out."""

    def sort_and_count(self, held_out: int) -> None:
        """Sort each series by time, and count what is missing.

        Args:
            held_out: the last rows of each series, from which nothing is learned.

        Raises:
            DataInvalid: a series has a time twice.
        """
        for first, end in runs_of_series(self._offsets):
            part = slice(self._offsets[first], self._offsets[end])
            starts, lengths = self._offsets[first:end] - part.start, np.diff(self._offsets[first : end + 1])
            codes = np.repeat(np.arange(end - first), lengths)
            steps, inside = self._sorted_steps(part, codes)
            self._refuse_twice(first, part, codes, (steps == 0) & inside)
            gone = np.isnan(self._values[: len(self._columns.targets), part]).sum(axis=0)
            missing = np.add.reduceat(gone, starts)
            known = gone < len(self._columns.targets)
            ahead = np.repeat(starts + lengths, lengths) - np.arange(len(codes)) <= held_out
            empty = ~np.logical_or.reduceat(known & ~ahead, starts)
            self.empty[first:end] = empty
            self.unscored[first:end] = ~np.logical_or.reduceat(known & ahead, starts) if held_out else False
            self._missing += int(missing[~empty].sum())
            self._count_gaps(first, part, codes, steps, inside & ~empty[codes[1:]])

    def _sorted_steps(
        self, part: slice, codes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The steps from each row to the next, and which of them stay inside a series."""
        inside = codes[1:] == codes[:-1]
        steps = np.diff(self._times[part])
        if (inside & (steps < 0)).any():
            order = order_by_time(self._times[part])
            order = order[order_of(codes[order])]
            for array in (self._times, *self._values):
                array[part] = array[part][order]
            steps = np.diff(self._times[part])
        return steps, inside

    def _refuse_twice(
        self, first: int, part: slice, codes: NDArray[np.int64], twice: NDArray[np.bool_]
    ) -> None:
        if not twice.any():
            return
        place = int(twice.argmax())
        moment = np.datetime64(int(self._times[part][place]), "us")
        name = self._ids[first + int(codes[place])]
        raise DataInvalid(f"series {name!r} has two rows at {moment}; check the data before it is uploaded")

    def _count_gaps(
        self,
        first: int,
        part: slice,
        codes: NDArray[np.int64],
        steps: NDArray[np.int64],
        inside: NDArray[np.bool_],
    ) -> None:
        series, code = int(codes[-1]) + 1, codes[1:][inside]
        usual = usual_steps(code, steps[inside], series)
        steps, business = without_weekends(codes, self._times[part], steps, usual)
        self._gaps += int(is_gap(steps[inside], usual[code]).sum())
        self._usual[first : first + series], self._business[first : first + series] = usual, business
        sizes, places = np.unique(usual, return_inverse=True)
        for size, count in zip(sizes.tolist(), np.bincount(places[code]).tolist(), strict=False):
            self._steps[size] += count

    def finished(self, *, rows: int, series: int, files: int) -> SeriesSet:
        """The series that have a target."""
        kept = np.flatnonzero(~self.empty)
        usual, business = self._usual[kept], self._business[kept]
        if self.empty.any():
            self._close_up(kept)
        # Of steps that are equally common the shortest.
        spacing = max(self._steps, key=lambda step: (self._steps[step], -step), default=0)
        same = (usual == 0) | ~is_gap(usual, np.full_like(usual, spacing))
        business_days = bool(2 * (business & same).sum() > same.sum())
        return SeriesSet(
            columns=self._columns,
            ids=self._ids,
            offsets=self._offsets,
            values=self._values,
            times=self._times,
            spacing_seconds=spacing / 1e6,
            rows=rows,
            dropped_short=series - len(kept),
            gaps=self._gaps,
            missing=self._missing,
            files=files,
            business_days=business_days,
            other_spacing=int((~same).sum()),
            unscored=int(self.unscored[kept].sum()),
        )

    def _close_up(self, kept: NDArray[np.int64]) -> None:
        """Move series over those before them that are dropped, in place."""
        ends = np.cumsum(np.diff(self._offsets)[kept])
        offsets = np.concatenate([[0], ends]).astype(np.int64)
        for number, start in zip(kept.tolist(), offsets[:-1].tolist(), strict=True):
            old = slice(self._offsets[number], self._offsets[number + 1])
            new = slice(start, start + old.stop - old.start)
            for array in (self._times, *self._values):
                array[new] = array[old]
        self._ids = [self._ids[number] for number in kept.tolist()]
        self._offsets, self._times, self._values = (
            offsets,
            self._times[: ends[-1]],
            self._values[:, : ends[-1]],
        )
