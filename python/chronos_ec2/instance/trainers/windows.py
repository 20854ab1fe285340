"""Cut series into windows: context to learn from, target to forecast.

The last `horizon` values of every series are held out: no training window, context or target, reaches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.errors import DataInvalid
from chronos_ec2.instance.metrics import seasonal_error, seasonal_naive

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows to train on or to score."""

    context: Floats32
    """Shape [windows, context]; gaps filled with the value before them."""
    target: Floats32
    """Shape [windows, horizon]; NaN where a value is missing."""


class Windows:
    """The windows of a set of series.

    Args:
        series: the data, of which the first column is forecast; every series has at least
            `context + 2 * horizon` rows.
        context: values a window shows.
        horizon: values a window asks for.

    Raises:
        DataInvalid: no window has a known value both in its context and in its target.
    """

    def __init__(self, series: SeriesSet, context: int, horizon: int) -> None:
        self._series = series
        self._values = series.values[0]
        self._filled = fill(self._values, series.offsets, horizon)
        self._context = np.arange(context)
        self._target = np.arange(context, context + horizon)
        self._starts = self._usable_starts()
        if not self._starts.size:
            raise DataInvalid("every training window is empty: too many targets are missing (NaN)")

    def _usable_starts(self) -> NDArray[np.int64]:
        context, horizon = len(self._context), len(self._target)
        known = np.concatenate([[0], np.cumsum(~np.isnan(self._values))])
        offsets = self._series.offsets
        last = offsets[1:] - 2 * horizon - context
        starts = np.concatenate([np.arange(a, b + 1) for a, b in zip(offsets[:-1], last, strict=True)])
        middle = starts + context
        usable = (known[middle] > known[starts]) & (known[middle + horizon] > known[middle])
        return np.asarray(starts[usable], dtype=np.int64)

    def draw(self, seed: int, step: int, size: int) -> Batch:
        """Draw the batch of a step: the same for the same seed and step, whatever was drawn before."""
        chosen = np.random.default_rng([seed, step]).integers(0, len(self._starts), size)
        return self._cut(self._starts[chosen])

    def held_out(self) -> Batch:
        """The last window of every series, in the order of the series."""
        return self._cut(self._series.offsets[1:] - len(self._context) - len(self._target))

    def baseline(self, season_length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the seasonal-naive forecast says, and the scale for MASE.

        Returns:
            The forecast of the held-out window, shape [series, horizon], and `seasonal_error` of each
            series' past, shape [series].
        """
        horizon = len(self._target)
        offsets = self._series.offsets
        pasts = [self._values[a : b - horizon] for a, b in pairwise(offsets)]
        naive = np.stack([seasonal_naive(past, horizon, season_length) for past in pasts])
        return naive, np.array([seasonal_error(past, season_length) for past in pasts])

    def _cut(self, starts: NDArray[np.int64]) -> Batch:
        return Batch(
            context=self._filled[starts[:, None] + self._context],
            target=self._values[starts[:, None] + self._target],
        )


def fill(values: Floats32, offsets: NDArray[np.int64], held_out: int) -> Floats32:
    """Replace each missing value by the last known one of its series, at a start by the first known.

    Args:
        values: shape [rows].
        offsets: where each series starts, and where the last one ends.
        held_out: the last rows of each series, from which no start is filled: 0 takes their place.
    """
    lengths = np.diff(offsets)
    starts = np.repeat(offsets[:-1], lengths)
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    # A start without a value looks ahead to the series' first one; everything else only looks back.
    first = np.minimum.reduceat(np.where(known, np.arange(len(values)), len(values)), offsets[:-1])
    known_before = np.repeat(first < offsets[1:] - held_out, lengths)
    looked_up = np.where(last >= starts, last, np.where(known_before, np.repeat(first, lengths), -1))
    return np.where(looked_up >= 0, values[looked_up], np.float32(0))
