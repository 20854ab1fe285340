"""Load a folder of Parquet files for training.

All series lie behind each other in flat arrays, cut by offsets; a series may span files, and files and rows
may come in any order. Rows are taken as evenly spaced: gaps are counted, and no row is invented. The files
are read twice, first for the lengths of the series and then for their values, each of which goes straight to
its place; so arrays on disk serve as well as arrays in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.formats import Block, read_blocks, read_lengths
from chronos_ec2.errors import DataInvalid

_CHUNK: Final = 1 << 22


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
    """Series left out: fewer rows than asked for, or no known target."""
    gaps: int
    """How often the time to the next row differs from the spacing."""
    missing: int
    """Targets that are NaN."""
    files: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> NDArray[np.float32]:
        """What is to be forecast: shape [targets, rows]."""
        return self.values[: len(self.columns.targets)]

    def fingerprint(self) -> str:
        """A sha256 over columns, names, times and values: equal when a trainer would see the same data."""
        digest = hashlib.sha256("\n".join(["\0".join(self.columns.variates), *self.ids]).encode())
        for array in (self.offsets, self.times, *self.values):
            for at in range(0, len(array), _CHUNK):
                digest.update(np.ascontiguousarray(array[at : at + _CHUNK]).data)
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
        }


def load_series(
    folder: Path,
    columns: Columns,
    min_length: int,
    *,
    scratch: Path | None = None,
    memory_bytes: int | None = None,
) -> SeriesSet:
    """Read every `*.parquet` file of a folder.

    Args:
        folder: where the files lie; hidden files are passed over.
        columns: what to read.
        min_length: the fewest rows that make a series usable.
        scratch: a folder for arrays that do not fit into memory; None keeps them there whatever their size.
        memory_bytes: what may be taken of the memory; None is half of what is free.

    Returns:
        The usable series.

    Raises:
        DataInvalid: no file, an unreadable file, a missing or mistyped column, a null id or time, an infinite
            value, a time that a series has twice, or no series long enough.
    """
    paths = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise DataInvalid(f"{folder} holds no .parquet file: nothing to train on")
    lengths = _lengths(paths, columns)
    ids = sorted(name for name, length in lengths.items() if length >= min_length)
    if not ids:
        raise _too_short(max(lengths.values(), default=0), min_length)
    offsets = np.concatenate([[0], np.cumsum([lengths[name] for name in ids])]).astype(np.int64)
    allocate = _allocator(int(offsets[-1]), len(columns.variates), scratch, memory_bytes)
    times = allocate("times", (int(offsets[-1]),), np.int64)
    values = allocate("values", (len(columns.variates), int(offsets[-1])), np.float32)
    _fill(paths, columns, dict(zip(ids, offsets, strict=False)), times, values)
    _sort(ids, offsets, times, values)
    return _finished(columns, ids, offsets, times, values, lengths, len(paths), min_length)


def _lengths(paths: list[Path], columns: Columns) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        for names, counts in read_lengths(path, columns):
            for name, count in zip(names, counts.tolist(), strict=True):
                found[name] = found.get(name, 0) + count
    return found


def _too_short(longest: int, min_length: int) -> DataInvalid:
    return DataInvalid(
        f"no series is long enough: the longest has {longest} rows and training needs {min_length} "
        "with at least one value; lower context_length and prediction_length"
    )


_Allocate = Callable[[str, tuple[int, ...], Any], NDArray[Any]]


def _allocator(rows: int, variates: int, scratch: Path | None, memory_bytes: int | None) -> _Allocate:
    needed = rows * (8 + 4 * variates)
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2
    if scratch is None or needed <= (free if memory_bytes is None else memory_bytes):
        return lambda name, shape, kind: np.empty(shape, dtype=kind)
    scratch.mkdir(parents=True, exist_ok=True)
    return lambda name, shape, kind: np.lib.format.open_memmap(scratch / f"{name}.npy", "w+", kind, shape)


def _fill(
    paths: list[Path],
    columns: Columns,
    cursors: dict[str, np.int64],
    times: NDArray[np.int64],
    values: NDArray[np.float32],
) -> None:
    """Put each row behind those of its series that came before; `cursors` is where the next one goes."""
    for path in paths:
        for block in read_blocks(path, columns):
            starts = np.array([cursors.get(name, -1) for name in block.ids], dtype=np.int64)
            order, places, counts = _places(block, starts)
            times[places] = block.times[order]
            for place, variate in enumerate(values):
                variate[places] = block.values[place][order]
            for name, start, count in zip(block.ids, starts.tolist(), counts.tolist(), strict=True):
                if start >= 0:
                    cursors[name] = np.int64(start + count)


def _places(
    block: Block, starts: NDArray[np.int64]
) -> tuple[slice | NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which rows of a block are wanted, by series; where each goes; how many each series has."""
    codes = block.codes
    counts = np.bincount(codes, minlength=len(block.ids))
    order: slice | NDArray[np.int64] = slice(None)
    if np.any(codes[1:] < codes[:-1]):
        by_series: NDArray[np.int64] = np.argsort(codes, kind="stable")
        order, codes = by_series, codes[by_series]
    first = np.cumsum(counts) - counts
    places = (starts - first)[codes] + np.arange(len(codes))
    if (starts < 0).any():
        wanted = np.flatnonzero(starts[codes] >= 0)
        order = wanted if isinstance(order, slice) else order[wanted]
        places = places[wanted]
    return order, places, counts


def _sort(
    ids: list[str], offsets: NDArray[np.int64], times: NDArray[np.int64], values: NDArray[np.float32]
) -> None:
    """Sort each series by time, where it is not.

    Raises:
        DataInvalid: a series has a time twice.
    """
    for number in _falling(offsets, times, strictly=False):
        part = slice(offsets[number], offsets[number + 1])
        order: NDArray[np.int64] = np.argsort(times[part], kind="stable")
        times[part] = times[part][order]
        for variate in values:
            variate[part] = variate[part][order]
    for number in _falling(offsets, times, strictly=True)[:1]:
        own = times[offsets[number] : offsets[number + 1]]
        moment = np.datetime64(int(own[1:][np.diff(own) == 0][0]), "us")
        raise DataInvalid(
            f"series {ids[number]!r} has two rows at {moment}; check the data before it is uploaded"
        )


def _falling(offsets: NDArray[np.int64], times: NDArray[np.int64], *, strictly: bool) -> NDArray[np.int64]:
    """The series in which a time is before the one before it or, `strictly`, not after it."""
    found = []
    for at in range(0, len(times) - 1, _CHUNK):
        step = np.diff(times[at : at + _CHUNK + 1])
        bad = at + np.flatnonzero(step <= 0 if strictly else step < 0)
        series = np.searchsorted(offsets, bad, side="right") - 1
        found.append(np.unique(series[bad + 1 != offsets[series + 1]]))
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def _finished(
    columns: Columns,
    ids: list[str],
    offsets: NDArray[np.int64],
    times: NDArray[np.int64],
    values: NDArray[np.float32],
    lengths: dict[str, int],
    files: int,
    min_length: int,
) -> SeriesSet:
    targets = values[: len(columns.targets)]
    empty = np.zeros(len(ids), dtype=bool)
    missing = 0
    for number in range(len(ids)):
        gone = np.isnan(targets[:, offsets[number] : offsets[number + 1]])
        empty[number] = gone.all()
        missing += 0 if empty[number] else int(gone.sum())
    if empty.all():
        raise _too_short(int(np.diff(offsets).max()), min_length)
    if empty.any():
        ids, offsets, times, values = _without(empty, ids, offsets, times, values)
    spacing, gaps = _spacing(times, offsets)
    return SeriesSet(
        columns=columns,
        ids=ids,
        offsets=offsets,
        values=values,
        times=times,
        spacing_seconds=spacing / 1e6,
        rows=sum(lengths.values()),
        dropped_short=len(lengths) - len(ids),
        gaps=gaps,
        missing=missing,
        files=files,
    )


def _without(
    empty: NDArray[np.bool_],
    ids: list[str],
    offsets: NDArray[np.int64],
    times: NDArray[np.int64],
    values: NDArray[np.float32],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Close the gaps that series without any target leave, in place."""
    kept, end = [0], 0
    for number in np.flatnonzero(~empty):
        start, stop = int(offsets[number]), int(offsets[number + 1])
        fresh = slice(end, end + stop - start)
        times[fresh] = times[start:stop]
        for variate in values:
            variate[fresh] = variate[start:stop]
        end = fresh.stop
        kept.append(end)
    names = [name for name, gone in zip(ids, empty, strict=True) if not gone]
    return names, np.array(kept, dtype=np.int64), times[:end], values[:, :end]


def _spacing(times: NDArray[np.int64], offsets: NDArray[np.int64]) -> tuple[int, int]:
    """The most common step in time, and how many steps differ from it."""
    sizes: dict[int, int] = {}
    for at in range(0, len(times) - 1, _CHUNK):
        step = np.diff(times[at : at + _CHUNK + 1])
        borders = offsets[(offsets > at) & (offsets <= at + len(step))] - 1 - at
        found, counts = np.unique(np.delete(step, borders), return_counts=True)
        for size, count in zip(found.tolist(), counts.tolist(), strict=True):
            sizes[size] = sizes.get(size, 0) + count
    if not sizes:
        return 0, 0
    usual = max(sizes, key=lambda size: (sizes[size], -size))
    return usual, sum(sizes.values()) - sizes[usual]
