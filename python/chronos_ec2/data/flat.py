"""Arrays in which the series lie behind each other: in memory or, where they do not fit, on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.blocks import Block
from chronos_ec2.errors import ChronosError, DataInvalid

ROWS_AT_ONCE: Final = 1 << 18
"""How many rows are looked at together: what that takes of the memory stays small beside the data."""
_FEW_ROWS: Final = 32
"""Below this many rows a series, one copy of all is faster than one copy each."""
_SORTED_BY_COUNTING: Final = 1 << 16
"""Whole numbers below it are sorted by counting, several times faster than larger ones."""

Allocate = Callable[[str, tuple[int, ...], Any], NDArray[Any]]
"""Makes an array by its name, shape and dtype."""


class Places:
    """Where the rows of each series go, and how far they are filled.

    Args:
        lengths: the rows of each series at most.
    """

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self.ids = sorted(lengths)
        ends = np.cumsum([lengths[name] for name in self.ids], dtype=np.int64)
        self.offsets: NDArray[np.int64] = np.concatenate([[0], ends]).astype(np.int64)
        self.filled: NDArray[np.int64] = np.zeros(len(self.ids), dtype=np.int64)
        """How many rows each series has got so far."""
        self._number = {name: number for number, name in enumerate(self.ids)}

    def numbers(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The numbers of series by their names, -1 for one that has no place."""
        return np.array([self._number.get(name, -1) for name in names], dtype=np.int64)

    def put(self, block: Block, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
        """Copy a block's rows behind those of the same series that came before.

        Args:
            block: whose rows they are; those of series without a place are left out.
            pairs: arrays with a value for each of the block's rows, and the flat array it goes to.

        Raises:
            DataInvalid: a series has more rows than it had when they were counted.
        """
        counts = np.bincount(block.codes, minlength=len(block.ids))
        numbers = self.numbers(block.ids)
        wanted = np.flatnonzero((numbers >= 0) & (counts > 0))
        chosen, fresh = numbers[wanted], counts[wanted]
        starts = self.offsets[chosen] + self.filled[chosen]
        if (starts + fresh > self.offsets[chosen + 1]).any():
            raise DataInvalid(
                "a file changed while it was read; let nobody write to the folder, and start again"
            )
        firsts = (np.cumsum(counts) - counts)[wanted]
        order = None
        if (block.codes[1:] < block.codes[:-1]).any():
            order = order_of(block.codes)
        for source, target in pairs:
            _copy(source if order is None else source[order], target, firsts, starts, fresh)
        self.filled[chosen] += fresh


def _copy(
    source: NDArray[Any],
    target: NDArray[Any],
    firsts: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Copy runs of rows: `counts` of them, from `firsts` on in the source to `starts` in the target."""
    if len(source) >= _FEW_ROWS * len(counts):
        for first, start, count in zip(firsts.tolist(), starts.tolist(), counts.tolist(), strict=True):
            target[start : start + count] = source[first : first + count]
        return
    steps = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    target[np.repeat(starts, counts) + steps] = source[np.repeat(firsts, counts) + steps]


def order_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order that sorts rows by the number of their series and leaves those of one series as they come."""
    # Of a type as short as it can be: see `_SORTED_BY_COUNTING`.
    return np.argsort(codes.astype(np.min_scalar_type(int(codes.max()))), kind="stable")


def order_by_time(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order that sorts rows by their time."""
    since = times - times.min()
    steps = since // max(int(np.gcd.reduce(since)), 1)
    return order_of(steps) if steps.max() < _SORTED_BY_COUNTING else np.argsort(times)


def allocator(needed: int, scratch: Path | None, memory_bytes: int | None) -> Allocate:
    """Decide where arrays lie.

    Args:
        needed: bytes of all of them.
        scratch: a folder for files, one an array; None keeps them in memory whatever their size.
        memory_bytes: what they may take of the memory; None is this process's share of half of what is
            available: torchrun's LOCAL_WORLD_SIZE processes look at the same moment.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    limit = available_memory() // 2 // processes if memory_bytes is None else memory_bytes
    if scratch is None or needed <= limit:
        return lambda _, shape, kind: np.empty(shape, dtype=kind)
    scratch.mkdir(parents=True, exist_ok=True)
    return lambda name, shape, kind: _on_disk(scratch / f"{name}.npy", shape, kind)


def _on_disk(path: Path, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    found = np.lib.format.open_memmap(path, "w+", kind, shape)
    try:
        # A full disk would otherwise show at some later write, as a signal that ends the process.
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as error:
        size = path.stat().st_size / 1e9
        path.unlink()
        raise ChronosError(
            f"the data do not fit into memory, and {path.parent} has no room for them: {path.name} needs "
            f"{size:.1f} GB ({error.strerror}); raise volume_gb, or take an instance with more memory"
        ) from error
    return found


def available_memory() -> int:
    """Bytes of memory that programs can have without anything being swapped out."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def runs_of_series(offsets: NDArray[np.int64], rows: int | None = None) -> Iterator[tuple[int, int]]:
    """Cut series into runs of whole ones, each of at most so many rows or of one series.

    Args:
        offsets: where each series starts, and where the last one ends.
        rows: how many; None is `ROWS_AT_ONCE`.

    Yields:
        The number of the run's first series, and of the one behind its last.
    """
    first, last = 0, len(offsets) - 1
    while first < last:
        end = int(np.searchsorted(offsets, offsets[first] + (rows or ROWS_AT_ONCE), side="right")) - 1
        end = max(first + 1, end)
        yield first, end
        first = end
