"""How far each series' forecast is off, beside what the seasonal-naive forecast makes of it.

One series' figures are those of `instance.metrics` for that series alone: WQL is the mean over the levels of
`2 * sum(pinball) / sum(|target|)`, MASE the mean of `|target - median|` over the seasonal-naive forecast's
error in the series' past. All series are done at once, whatever their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def wql_by_series(target: Floats, quantiles: Floats, levels: Sequence[float], starts: Places) -> Floats:
    """The weighted quantile loss of each series.

    Args:
        target: what happened, shape [rows]; NaN where it is not known.
        quantiles: the forecast, shape [rows, levels].
        levels: the quantiles' levels, in the order of the columns.
        starts: the first row of each series, ascending from 0.

    Returns:
        Shape [series]; NaN for a series of which nothing was observed, or nothing but 0.
    """
    seen = ~np.isnan(target)
    error = np.where(seen, target, 0.0)[:, None] - np.where(seen[:, None], quantiles, 0.0)
    shares = np.asarray(levels)
    pinball = np.maximum(shares * error, (shares - 1.0) * error).mean(axis=1)
    total = np.add.reduceat(np.where(seen, np.abs(target), 0.0), starts)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 2.0 * np.add.reduceat(pinball, starts) / total
    return np.where(total > 0.0, found, np.nan)


def mase_by_series(target: Floats, median: Floats, scale: Floats, starts: Places) -> Floats:
    """The mean absolute scaled error of each series.

    Args:
        target, starts: as for `wql_by_series`.
        median: the forecast's median, shape [rows].
        scale: the seasonal-naive forecast's error in the past of the row's series, shape [rows].

    Returns:
        Shape [series]; NaN where nothing was observed or the scale is 0 or unknown.
    """
    seen = ~np.isnan(target)
    error = np.add.reduceat(np.where(seen, np.abs(target - median), 0.0), starts)
    count = np.add.reduceat(seen.astype(np.float64), starts)
    factor = scale[starts]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = error / count / factor
    return np.where(np.isfinite(factor) & (factor > 0) & (count > 0), found, np.nan)


def best_median_worst(errors: Floats) -> dict[str, int]:
    """Which series stand for all: the best, the one in the middle, the worst; each once.

    Args:
        errors: one a series; NaN does not count.

    Returns:
        Positions by `best`, `median`, `worst`; fewer of them when there are fewer series.
    """
    order = np.argsort(errors, kind="stable")[: int(np.isfinite(errors).sum())]
    if not order.size:
        return {}
    chosen = {"best": order[0], "worst": order[-1], "median": order[(len(order) - 1) // 2]}
    found: dict[str, int] = {}
    for name, place in chosen.items():
        if int(place) not in found.values():
            found[name] = int(place)
    return {name: found[name] for name in ("best", "median", "worst") if name in found}
