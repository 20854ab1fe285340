"""Score forecasts of the held-out window, beside what the seasonal-naive forecast makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.instance.metrics import (
    MEDIAN,
    QUANTILE_LEVELS,
    mean_absolute_scaled_error,
    weighted_quantile_loss,
)
from chronos_ec2.instance.trainers.files import write_atomically
from chronos_ec2.instance.trainers.model import LinearQuantileModel
from chronos_ec2.instance.trainers.windows import Windows


class HeldOut:
    """The last window of every series, which no model was trained on.

    Args:
        windows: the data's windows.
        season_length: for the seasonal-naive forecast and for MASE, in steps.
    """

    def __init__(self, windows: Windows, season_length: int) -> None:
        self._batch = windows.held_out()
        self._times = windows.held_out_times()
        self._season_length = season_length
        self._naive, self._scale = windows.baseline(season_length)

    def score(self, model: LinearQuantileModel) -> dict[str, float]:
        """WQL and MASE of a model's forecast."""
        return self._score(model.forecast(self._batch.context))

    def baselines(self) -> dict[str, Any]:
        """WQL and MASE of the seasonal-naive forecast, which says the same at every quantile."""
        score = self._score(np.repeat(self._naive[..., None], len(QUANTILE_LEVELS), axis=-1))
        return {"seasonal_naive": {"season_length": self._season_length, **score}}

    def write_forecasts(self, path: Path, ids: Sequence[str], model: LinearQuantileModel) -> None:
        """Write the forecast beside what happened: item_id, timestamp, target, "0.1", ..., "0.9".

        Args:
            path: the Parquet file.
            ids: the name of each series.
            model: what forecasts.
        """
        forecast = model.forecast(self._batch.context).reshape(-1, len(QUANTILE_LEVELS))
        columns: dict[str, pa.Array] = {
            "item_id": pa.array(np.repeat(np.asarray(ids, dtype=object), self._times.shape[1]), pa.string()),
            "timestamp": pa.array(self._times.ravel(), pa.int64()).cast(pa.timestamp("us")),
            "target": pa.array(self._batch.target.ravel(), from_pandas=True),
        }
        for position, level in enumerate(QUANTILE_LEVELS):
            columns[str(level)] = pa.array(forecast[:, position])
        write_atomically(path, lambda stream: pq.write_table(pa.table(columns), stream))

    def _score(self, forecast: NDArray[Any]) -> dict[str, float]:
        target = self._batch.target
        return {
            "WQL": weighted_quantile_loss(target, forecast),
            "MASE": mean_absolute_scaled_error(target, forecast[..., MEDIAN], self._scale),
        }
