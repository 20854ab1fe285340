"""Score forecasts of the held-out window, beside what the seasonal-naive forecast makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.instance.metrics import QUANTILE_LEVELS, check_forecast, score_forecast
from chronos_ec2.instance.trainers.forecast_files import write_forecasts
from chronos_ec2.instance.trainers.model import LinearQuantileModel
from chronos_ec2.instance.trainers.windows import Windows


class HeldOut:
    """The last window of every series, which no model was trained on.

    Args:
        series, windows: the data.
        season_length: for the seasonal-naive forecast and for MASE, in steps.
    """

    def __init__(self, series: SeriesSet, windows: Windows, season_length: int) -> None:
        self._series = series
        self._batch = windows.held_out()
        self._season_length = season_length
        self._naive, self._scale = windows.baseline(season_length)
        # Of what was never seen before nobody can say anything: not the naive forecast either.
        self._target = np.where(np.isnan(self._naive), np.nan, self._batch.target)

    def score(self, model: LinearQuantileModel) -> dict[str, float]:
        """WQL and MASE of a model's forecast.

        Raises:
            ChronosError: it is made of no numbers.
        """
        forecast = model.forecast(self._batch.context)
        check_forecast(self._target, forecast)
        return self._score(forecast)

    def baselines(self) -> dict[str, Any]:
        """WQL and MASE of the seasonal-naive forecast, which says the same at every quantile."""
        score = self._score(np.repeat(self._naive[..., None], len(QUANTILE_LEVELS), axis=-1))
        return {"seasonal_naive": {"season_length": self._season_length, **score}}

    def write_forecasts(self, path: Path, model: LinearQuantileModel) -> None:
        """Write the forecast beside what happened (forecast_files.py)."""
        forecast = model.forecast(self._batch.context)[:, None]
        write_forecasts(path, self._series, forecast, self._season_length)

    def _score(self, forecast: NDArray[Any]) -> dict[str, float]:
        return score_forecast(self._target, forecast, self._scale)
