"""A linear map from a context to nine quantiles of each of the next values, learned with Adam.

The input is the context, moved so that its last value is 0 and divided by its spread: the two newest seasons
value by value, and one mean for each season before them. The output is as many quantiles as
`QUANTILE_LEVELS` for every step of the horizon, in the same units. Everything is linear, so the pinball loss
is convex and any start leads to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chronos_ec2.instance.metrics import QUANTILE_LEVELS
from chronos_ec2.instance.trainers.windows import Batch, Floats32

_LEVELS: Final = np.asarray(QUANTILE_LEVELS, dtype=np.float32)
_NORMAL_QUANTILES: Final = (-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816)
_SEASONS_IN_FULL: Final = 2
_LEAST_IN_FULL: Final = 24
_BETA1: Final = 0.9
_BETA2: Final = 0.999
_EPSILON: Final = 1e-8


@dataclass(frozen=True, slots=True)
class Shape:
    """What fixes the size of the weights."""

    context_length: int
    prediction_length: int
    season_length: int


class LinearQuantileModel:
    """The model: its shape and its weights.

    Args:
        shape: the lengths it is made for.
        weights: [features + 1, horizon * 9], the last row the constant; None starts untrained, at a normal
            distribution around the last value.

    Raises:
        ValueError: the weights have another shape.
    """

    def __init__(self, shape: Shape, weights: Floats32 | None = None) -> None:
        self.shape = shape
        self._basis = _basis(shape)
        expected = (self._basis.shape[1] + 1, shape.prediction_length * len(QUANTILE_LEVELS))
        if weights is None:
            weights = np.zeros(expected, dtype=np.float32)
            weights[-1] = np.tile(np.asarray(_NORMAL_QUANTILES, dtype=np.float32), shape.prediction_length)
        if weights.shape != expected:
            raise ValueError(f"weights of shape {weights.shape}, expected {expected}")
        self.weights = weights

    def forecast(self, history: ArrayLike) -> Floats32:
        """Forecast the values after a history.

        Args:
            history: shape [time] or [series, time], at least `context_length` long; NaN where a value is
                missing.

        Returns:
            Quantiles at `QUANTILE_LEVELS`, rising, shape [series, horizon, 9].

        Raises:
            ValueError: the history is shorter than the context, or one has no value at all.
        """
        context = np.atleast_2d(np.asarray(history, dtype=np.float32))[:, -self.shape.context_length :]
        if context.shape[1] < self.shape.context_length:
            raise ValueError(f"{context.shape[1]} values given, {self.shape.context_length} needed")
        inputs, level, spread = self._inputs(_fill_forward(context))
        raw = (inputs @ self.weights).reshape(len(context), self.shape.prediction_length, -1)
        return np.asarray(np.sort(raw, axis=-1) * spread[..., None] + level[..., None], dtype=np.float32)

    def loss_and_gradient(self, batch: Batch) -> tuple[float, Floats32]:
        """The loss of a batch and its gradient.

        Returns:
            Twice the pinball loss, in units of each window's spread, as a mean over the known targets and
            the nine levels; and its derivative by the weights, same shape as these.
        """
        inputs, level, spread = self._inputs(batch.context)
        seen = ~np.isnan(batch.target)
        target = np.where(seen, (batch.target - level) / spread, 0.0).astype(np.float32)
        output = (inputs @ self.weights).reshape(*target.shape, -1)
        error = target[..., None] - output
        slope = np.where(error > 0, _LEVELS, _LEVELS - 1) * seen[..., None]
        share = np.float32(2.0 / (max(int(seen.sum()), 1) * len(_LEVELS)))
        loss = float((slope * error).sum(dtype=np.float64) * share)
        gradient = inputs.T @ (-share * slope.reshape(len(inputs), -1))
        return loss, np.asarray(gradient, dtype=np.float32)

    def _inputs(self, context: Floats32) -> tuple[Floats32, Floats32, Floats32]:
        level = context[:, -1:]
        # A hundredth of the size keeps a context that never moved from dividing by nothing.
        size = np.abs(context).mean(axis=1, keepdims=True)
        spread = context.std(axis=1, keepdims=True) + 0.01 * size + 1e-6
        features = ((context - level) / spread) @ self._basis
        constant = np.ones((len(context), 1), dtype=np.float32)
        return np.concatenate([features, constant], axis=1), level, np.asarray(spread, dtype=np.float32)


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) for one array of weights, which it changes in place."""

    def __init__(self, mean: Floats32, variance: Floats32) -> None:
        self.mean = mean
        self.variance = variance

    @classmethod
    def fresh(cls, weights: Floats32) -> Adam:
        """The state before the first step."""
        return cls(np.zeros_like(weights), np.zeros_like(weights))

    def update(self, weights: Floats32, gradient: Floats32, step: int, learning_rate: float) -> None:
        """Take step number `step`, counted from 1."""
        self.mean += np.float32(1 - _BETA1) * (gradient - self.mean)
        self.variance += np.float32(1 - _BETA2) * (gradient * gradient - self.variance)
        scale = np.sqrt(self.variance / np.float32(1 - _BETA2**step)) + np.float32(_EPSILON)
        weights -= np.float32(learning_rate / (1 - _BETA1**step)) * self.mean / scale


def _basis(shape: Shape) -> Floats32:
    """The columns that turn a context into features: newest values as they are, older ones as means."""
    length = shape.context_length
    in_full = min(length, max(_SEASONS_IN_FULL * shape.season_length, _LEAST_IN_FULL))
    columns = list(np.eye(length, dtype=np.float32)[length - in_full :])
    block = max(shape.season_length, _LEAST_IN_FULL)
    for end in range(length - in_full, 0, -block):
        column = np.zeros(length, dtype=np.float32)
        column[max(0, end - block) : end] = 1.0 / (end - max(0, end - block))
        columns.append(column)
    return np.stack(columns, axis=1)


def _fill_forward(context: Floats32) -> Floats32:
    known = ~np.isnan(context)
    if not known.any(axis=1).all():
        raise ValueError("a history without any value cannot be forecast")
    if known.all():
        return context
    position = np.where(known, np.arange(context.shape[1]), -1)
    last = np.maximum.accumulate(position, axis=1)
    first = known.argmax(axis=1)[:, None]
    filled: NDArray[np.float32] = np.take_along_axis(context, np.where(last >= 0, last, first), axis=1)
    return filled
