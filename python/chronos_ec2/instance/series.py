"""Load a folder of Parquet files of (item_id, timestamp, target) for training.

All series lie behind each other in flat arrays, cut by offsets; a series may span files, and files and rows
may come in any order. Rows are taken as evenly spaced: the check before upload reports gaps, and the loader
counts them, but neither invents a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.errors import DataInvalid

COLUMNS: Final = ("item_id", "timestamp", "target")


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Every usable series, sorted by id, each sorted by time.

    Series i is `[offsets[i]:offsets[i + 1]]` of the flat arrays.
    """

    ids: list[str]
    """The name of each series."""
    offsets: NDArray[np.int64]
    """Where each series starts, and where the last one ends: shape [series + 1]."""
    values: NDArray[np.float32]
    """The targets; NaN where one is missing."""
    filled: NDArray[np.float32]
    """The targets with each missing one replaced by the last known before it (the first known at a start)."""
    times: NDArray[np.int64]
    """Microseconds since 1970, UTC."""
    spacing_seconds: float
    """The most common time from one row to the next."""
    rows: int
    """Rows read, those of dropped series included."""
    dropped_short: int
    """Series left out: fewer rows than asked for, or no known value."""
    gaps: int
    """How often the time to the next row differs from the spacing."""

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """A sha256 over names, times and values: equal exactly when a trainer would see the same data."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for array in (self.offsets, self.times, self.values):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Rows:
    ids: list[str]
    codes: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float32]


def load_series(folder: Path, min_length: int) -> SeriesSet:
    """Read every `*.parquet` file of a folder.

    Args:
        folder: where the files lie; hidden files are passed over.
        min_length: the fewest rows that make a series usable.

    Returns:
        The usable series.

    Raises:
        DataInvalid: no file, an unreadable file, a missing column, a null id or time, an infinite target, a
            time that a series has twice, or no series long enough.
    """
    paths = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise DataInvalid(f"{folder} holds no .parquet file: nothing to train on")
    merged = _sorted_rows([_read(path) for path in paths])
    _refuse_duplicates(merged)
    return _usable(merged, min_length)


def _read(path: Path) -> _Rows:
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise DataInvalid(f"{path.name}: column {missing[0]} is missing")
            table = file.read(columns=list(COLUMNS)).combine_chunks()
        return _convert(path.name, table)
    except (pa.ArrowException, OSError) as error:
        raise DataInvalid(f"{path.name}: cannot be read as (item_id, timestamp, target): {error}") from error


def _convert(name: str, table: pa.Table) -> _Rows:
    ids = table["item_id"]
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    for column, given in (("item_id", ids), ("timestamp", table["timestamp"])):
        if given.null_count:
            row = pc.index(given.is_null(), value=True).as_py()
            raise DataInvalid(f"{name}, row {row}: {column} is null")
    encoded = ids.cast(pa.string()).combine_chunks().dictionary_encode()
    times = table["timestamp"].cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy()
    targets = table["target"].cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    with np.errstate(over="ignore"):
        values = targets.astype(np.float32)
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise DataInvalid(f"{name}, row {infinite[0]}: target is infinite, or too large for 32 bits")
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return _Rows(encoded.dictionary.to_pylist(), codes, times, values)


def _sorted_rows(parts: Sequence[_Rows]) -> _Rows:
    names = sorted(set().union(*(part.ids for part in parts)))
    place = {name: index for index, name in enumerate(names)}
    codes = np.concatenate(
        [np.array([place[name] for name in part.ids], dtype=np.int64)[part.codes] for part in parts]
    )
    times = np.concatenate([part.times for part in parts])
    values = np.concatenate([part.values for part in parts])
    step = np.diff(codes)
    if not np.all((step > 0) | ((step == 0) & (np.diff(times) >= 0))):
        order = np.lexsort((times, codes))
        codes, times, values = codes[order], times[order], values[order]
    return _Rows(names, codes, times, values)


def _refuse_duplicates(rows: _Rows) -> None:
    twice = np.flatnonzero((np.diff(rows.codes) == 0) & (np.diff(rows.times) == 0))
    if twice.size:
        name, moment = rows.ids[rows.codes[twice[0]]], np.datetime64(int(rows.times[twice[0]]), "us")
        raise DataInvalid(f"series {name!r} has two rows at {moment}; check the data before it is uploaded")


def _usable(rows: _Rows, min_length: int) -> SeriesSet:
    known = ~np.isnan(rows.values)
    lengths = np.bincount(rows.codes, minlength=len(rows.ids))
    observed = np.bincount(rows.codes[known], minlength=len(rows.ids))
    keep = (lengths >= min_length) & (observed > 0)
    if not keep.any():
        longest = int(lengths.max()) if lengths.size else 0
        raise DataInvalid(
            f"no series is long enough: the longest has {longest} rows and training needs {min_length} "
            "(context_length + 2 * prediction_length) with at least one value; lower these settings"
        )
    chosen = keep[rows.codes]
    times, values = rows.times[chosen], rows.values[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64)
    spacing, gaps = _spacing(times, offsets)
    return SeriesSet(
        ids=[name for name, kept in zip(rows.ids, keep, strict=True) if kept],
        offsets=offsets,
        values=values,
        filled=_fill(values, offsets),
        times=times,
        spacing_seconds=spacing / 1e6,
        rows=len(rows.codes),
        dropped_short=int((~keep).sum()),
        gaps=gaps,
    )


def _spacing(times: NDArray[np.int64], offsets: NDArray[np.int64]) -> tuple[int, int]:
    within = np.ones(max(len(times) - 1, 0), dtype=bool)
    within[offsets[1:-1] - 1] = False
    steps = np.diff(times)[within]
    if not steps.size:
        return 0, 0
    sizes, counts = np.unique(steps, return_counts=True)
    usual = int(sizes[counts.argmax()])
    return usual, int((steps != usual).sum())


def _fill(values: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    lengths = np.diff(offsets)
    starts = np.repeat(offsets[:-1], lengths)
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    # A start without a value looks ahead to the series' first one; everything else only looks back.
    first = np.minimum.reduceat(np.where(known, np.arange(len(values)), len(values)), offsets[:-1])
    return values[np.where(last >= starts, last, np.repeat(first, lengths))]
