"""Cut windows out of the series: what a step learns from, and what is held out to score it.

The windows of a step are a function of seed and step alone. So nothing has to be replayed when a run goes on,
and any number of processes shares the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.errors import DataInvalid
from chronos_ec2.training_settings import ChronosConfig

_DRAWS: Final = 16
"""Windows drawn for each one wanted, where some have nothing to learn from."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows as the model takes them: the variates of each window behind each other."""

    context: torch.Tensor
    """float32 [windows * variates, context length]; NaN where nothing is known."""
    target: torch.Tensor
    """float32 [windows * variates, prediction length]; NaN in covariates and where a value is missing."""
    known: torch.Tensor | None
    """float32 [windows * variates, prediction length]; NaN but in known covariates. None without any."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device; from pinned memory it is copied beside the computing."""
        return self._each(lambda rows: rows.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in memory that a GPU can read from."""
        return self._each(torch.Tensor.pin_memory)

    def part(self, rows: slice) -> Batch:
        """Some of its rows."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        known = None if self.known is None else change(self.known)
        return Batch(change(self.context), change(self.target), known)


class Windows:
    """The windows of a set of series.

    Args:
        series: the data; each series has at least `config.min_length` rows.
        config: the lengths.
    """

    def __init__(self, series: SeriesSet, config: ChronosConfig) -> None:
        self._series = series
        self._past, self._ahead = config.context_length, config.prediction_length
        self._least = config.least_past
        self._n_targets = len(config.target)
        self._n_known = len(config.known_covariates)

    @property
    def variates(self) -> int:
        """Series a window has: targets, past covariates, known covariates."""
        return int(self._series.values.shape[0])

    def draw(self, seed: int, step: int, size: int, share: slice = slice(None)) -> Batch:
        """The batch of a step, or a process's share of it.

        A series is drawn first, then a place in it, as upstream does. Nothing reaches the held-out values.

        Args:
            seed, step: what it is drawn from.
            size: windows in the whole batch.
            share: which of them to cut out.

        Raises:
            DataInvalid: none of many windows has a known value both before and after its cut.
        """
        generator = np.random.default_rng([seed, step])
        which = generator.integers(0, len(self._series), size * _DRAWS)
        lengths = np.diff(self._series.offsets)[which]
        places = lengths - 2 * self._ahead - self._least + 1
        cuts = self._least + np.floor(generator.random(size * _DRAWS) * places).astype(np.int64)
        starts, ends = self._series.offsets[which], self._series.offsets[which] + cuts
        chosen = self._useful(starts, ends, size, step)[share]
        return self._cut(starts[chosen], ends[chosen])

    def _useful(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64], size: int, step: int
    ) -> NDArray[np.int64]:
        """The numbers of `size` windows in which there is something to learn."""
        first = np.arange(size)
        if self._series.missing == 0 or self._have_values(starts[:size], ends[:size]).all():
            return first
        found = np.flatnonzero(self._have_values(starts, ends))
        if not found.size:
            raise DataInvalid(
                f"step {step}: {len(ends)} windows were drawn, and all are empty: too many missing values"
            )
        return np.resize(found, size)

    def _have_values(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
        place = ends[:, None] + np.arange(-self._past, self._ahead)
        inside = np.maximum(place, starts[:, None])
        known = ~np.isnan(self._series.targets[:, inside]).all(axis=0) & (place == inside)
        return np.asarray(known[:, : self._past].any(axis=1) & known[:, self._past :].any(axis=1))

    def held_out(self, which: Sequence[int]) -> Batch:
        """The last window of some series, by their number."""
        chosen = np.asarray(which, dtype=np.int64)
        starts, stops = self._series.offsets[chosen], self._series.offsets[chosen + 1]
        return self._cut(starts, stops - self._ahead)

    def _cut(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Batch:
        values, n_known = self._series.values, self._n_known
        place = ends[:, None] + np.arange(-self._past, 0)
        context = values[:, np.maximum(place, starts[:, None])]
        context[:, place < starts[:, None]] = np.nan
        future = values[:, ends[:, None] + np.arange(self._ahead)]
        known = None
        if n_known:
            known = future.copy()
            known[:-n_known] = np.nan
        future[self._n_targets :] = np.nan
        return Batch(_rows(context), _rows(future), None if known is None else _rows(known))


def _rows(values: NDArray[np.float32]) -> torch.Tensor:
    """[variates, windows, time] to [windows * variates, time]."""
    return torch.from_numpy(np.ascontiguousarray(values.transpose(1, 0, 2))).flatten(0, 1)
