"""forecasts.parquet: what a model said of the held-out window, beside what happened and a naive forecast.

Beside it lies forecast_history.parquet: the time before the window, of the series that a report shows.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.instance.metrics import QUANTILE_LEVELS, seasonal_error, seasonal_naive
from chronos_ec2.instance.trainers.files import write_atomically
from chronos_ec2.report.series_errors import best_median_worst, wql_by_series

HISTORY: Final = "forecast_history.parquet"
HISTORY_WINDOWS: Final = 4
"""How many times the forecast's length the history goes back."""

Column = NDArray[Any]


def write_forecasts(path: Path, series: SeriesSet, forecast: NDArray[Any], season_length: int) -> None:
    """Write both files.

    forecasts.parquet has item_id, variate (of several targets), timestamp, target, seasonal_naive,
    seasonal_error (what MASE divides by), "0.1" … "0.9"; forecast_history.parquet the first four, of the
    best, the median and the worst series by WQL.

    Args:
        path: of forecasts.parquet; the history is put beside it.
        series: the data, of which the end was forecast.
        forecast: the quantiles at `QUANTILE_LEVELS` for the end of every series, shape
            [series, targets, horizon, 9].
        season_length: of the seasonal-naive forecast, in steps.
    """
    count, ahead = forecast.shape[1:3]
    rows = series.offsets[1:, None] + np.arange(-ahead, 0)
    target = series.targets[:count, rows].transpose(1, 0, 2).ravel()
    pasts = [past[a : b - ahead] for a, b in pairwise(series.offsets) for past in series.targets[:count]]
    naive = np.stack([seasonal_naive(past, ahead, season_length) for past in pasts])
    scale = np.array([seasonal_error(past, season_length) for past in pasts])
    levels = forecast.reshape(-1, len(QUANTILE_LEVELS))
    columns = _names(series, count, np.full(len(pasts), ahead))
    columns["timestamp"] = _times(np.repeat(series.times[rows][:, None, :], count, axis=1).ravel())
    columns["target"] = pa.array(target, from_pandas=True)
    columns["seasonal_naive"] = pa.array(naive.ravel().astype(np.float32), from_pandas=True)
    columns["seasonal_error"] = pa.array(np.repeat(scale, ahead), from_pandas=True)
    columns |= {str(level): pa.array(levels[:, place]) for place, level in enumerate(QUANTILE_LEVELS)}
    write_atomically(path, lambda stream: pq.write_table(pa.table(columns), stream))
    starts = np.arange(len(pasts)) * ahead
    errors = wql_by_series(target.astype(np.float64), levels.astype(np.float64), QUANTILE_LEVELS, starts)
    shown = sorted(best_median_worst(errors).values())
    _write_history(path.with_name(HISTORY), series, count, ahead, shown)


def _write_history(path: Path, series: SeriesSet, count: int, ahead: int, shown: list[int]) -> None:
    parts = []
    for place in shown:
        number, variate = divmod(place, count)
        end = int(series.offsets[number + 1]) - ahead
        first = max(int(series.offsets[number]), end - HISTORY_WINDOWS * ahead)
        parts.append((place, series.times[first:end], series.targets[variate, first:end]))
    lengths = np.zeros(len(series) * count, dtype=np.int64)
    lengths[shown] = [len(times) for _, times, _ in parts]
    columns = _names(series, count, lengths)
    columns["timestamp"] = _times(np.concatenate([times for _, times, _ in parts] or [np.zeros(0, np.int64)]))
    values = np.concatenate([past for _, _, past in parts] or [np.zeros(0, np.float32)])
    columns["target"] = pa.array(values, from_pandas=True)
    write_atomically(path, lambda stream: pq.write_table(pa.table(columns), stream))


def _names(series: SeriesSet, count: int, lengths: NDArray[np.int64]) -> dict[str, pa.Array]:
    """item_id, and variate where there are several, each repeated for its rows."""
    ids = np.repeat(np.repeat(np.asarray(series.ids, dtype=object), count), lengths)
    columns = {"item_id": pa.array(ids, pa.string())}
    if count > 1:
        variates = np.tile(np.asarray(series.columns.targets[:count], dtype=object), len(series))
        columns["variate"] = pa.array(np.repeat(variates, lengths), pa.string())
    return columns


def _times(microseconds: NDArray[np.int64]) -> pa.Array:
    return pa.array(microseconds, pa.int64()).cast(pa.timestamp("us"))
