"""Read the rows of a data set for its check: whose each is, of what time, in which row of which file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.blocks import Block
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.flat import Places, allocator
from chronos_ec2.data.problems import Silence
from chronos_ec2.data.reader import ParquetSource
from chronos_ec2.workstation.dataset import Findings

_BYTES_A_ROW: Final = 21
_ROWS_NAMED: Final = 5


@dataclass(slots=True)
class FileTally:
    """What was counted in one file."""

    name: str
    rows: int = 0
    series: set[str] = field(default_factory=set)
    missing: dict[str, int] = field(default_factory=dict)
    """By column."""
    missing_at: dict[str, list[int]] = field(default_factory=dict)
    """The first rows of them."""

    def add(self, block: Block, columns: Columns) -> None:
        """Count a block."""
        self.rows += len(block.codes)
        present = np.flatnonzero(np.bincount(block.codes, minlength=len(block.ids)))
        self.series.update(block.ids[code] for code in present.tolist())
        for name, values in zip(columns.variates, block.values, strict=True):
            gone = np.isnan(values)
            if gone.any():
                self.missing[name] = self.missing.get(name, 0) + int(gone.sum())
                at = self.missing_at.setdefault(name, [])
                if len(at) < _ROWS_NAMED:
                    rows = block.rows[gone][: _ROWS_NAMED * _ROWS_NAMED].tolist()
                    at += [row for row in dict.fromkeys(rows) if row not in at][: _ROWS_NAMED - len(at)]

    def report(self, columns: Columns, findings: Findings) -> None:
        """Warn of missing values."""
        for name, count in self.missing.items():
            is_target = name in columns.targets
            at = self.missing_at[name]
            rows = ", ".join(map(str, at)) + (", ..." if count > len(at) else "")
            findings.add(
                "warning",
                "missing-target" if is_target else "missing-covariate",
                f"{count} of {self.rows} {'targets' if is_target else 'values'} are missing "
                f"(null or NaN; rows {rows}): nothing is learned from them",
                file=self.name,
                row=at[0],
                column=name,
            )


@dataclass(frozen=True, slots=True)
class FlatRows:
    """All rows, series behind series, those of one in the order of files and rows."""

    files: list[str]
    places: Places
    """Which series lies where. Behind the rows of one there may be room that was not used."""
    time_columns: list[str]
    """What each file calls its times."""
    known: NDArray[np.bool_]
    """Whether a row has a target."""
    time: NDArray[np.int64]
    """Microseconds since 1970, UTC."""
    file: NDArray[np.int32]
    """Number of the file; -1 where there is no row."""
    row: NDArray[np.int64]
    """Row of the file, counted from 0."""


def read_rows(
    paths: Iterable[Path], columns: Columns, findings: Findings, scratch: Path
) -> tuple[FlatRows, list[FileTally]]:
    """Read files.

    Args:
        paths: files that `is_readable` found good.
        columns: what training will read.
        findings: what is wrong goes here; rows that something is wrong with are left out.
        scratch: a folder for what does not fit into memory.
    """
    paths = list(paths)
    lengths: dict[str, int] = {}
    for path in paths:
        # What is wrong is told once, by the second reading.
        for ids, counts in ParquetSource(path, columns, Silence()).lengths():
            for name, count in zip(ids, counts.tolist(), strict=True):
                lengths[name] = lengths.get(name, 0) + count
    places = Places(lengths)
    total = int(places.offsets[-1])
    allocate = allocator(total * _BYTES_A_ROW, scratch, None)
    flat = FlatRows(
        files=[path.name for path in paths],
        places=places,
        time_columns=[columns.timestamp] * len(paths),
        known=allocate("known", (total,), np.bool_),
        time=allocate("time", (total,), np.int64),
        file=allocate("file", (total,), np.int32),
        row=allocate("row", (total,), np.int64),
    )
    flat.file[:] = -1
    return flat, [_read_file(number, path, columns, findings, flat) for number, path in enumerate(paths)]


def _read_file(number: int, path: Path, columns: Columns, findings: Findings, flat: FlatRows) -> FileTally:
    tally = FileTally(path.name)
    for block in ParquetSource(path, columns, findings).blocks():
        tally.add(block, columns)
        file = np.full(len(block.codes), number, dtype=np.int32)
        flat.time_columns[number] = block.time_column
        known = np.asarray(~np.isnan(block.values[: len(columns.targets)]).all(axis=0))
        pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
            (block.times, flat.time),
            (file, flat.file),
            (block.rows, flat.row),
            (known, flat.known),
        ]
        flat.places.put(block, pairs)
    tally.report(columns, findings)
    return tally
