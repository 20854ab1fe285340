"""Forecast the end of every series, which no window was trained on, and score it beside naive forecasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.instance.metrics import (
    QUANTILE_LEVELS,
    check_forecast,
    score_forecast,
    seasonal_error,
    seasonal_naive,
)
from chronos_ec2.instance.trainers.chronos.lean_model import LeanChronos2
from chronos_ec2.instance.trainers.chronos.processes import Processes
from chronos_ec2.instance.trainers.chronos.windows import Windows
from chronos_ec2.instance.trainers.forecast_files import write_forecasts
from chronos_ec2.training_settings import ChronosConfig

Floats = NDArray[np.float64]
_ROWS_AT_ONCE: Final = 256

Autocast = Callable[[], Any]


class HeldOut:
    """The last window of every series.

    Args:
        series, windows, config: the data.
        season_length: for MASE and the first naive forecast, in steps.
        processes: who share the work.
        autocast: the precision to compute in.
    """

    def __init__(
        self,
        series: SeriesSet,
        windows: Windows,
        config: ChronosConfig,
        *,
        season_length: int,
        processes: Processes,
        autocast: Autocast,
    ) -> None:
        self._series, self._windows, self._config = series, windows, config
        self._season, self._processes, self._autocast = season_length, processes, autocast
        self._ahead = config.prediction_length
        series_and_targets = len(series) * len(config.target)
        self._looked_at = np.zeros(series_and_targets, dtype=bool)
        self._seen = np.zeros(series_and_targets, dtype=bool)
        self._scale = np.zeros(series_and_targets)

    def choice(self) -> NDArray[np.int64]:
        """The series that are scored while training goes on: `eval_series` at most, evenly spread."""
        count = min(len(self._series), self._config.eval_series)
        return np.linspace(0, len(self._series) - 1, count).round().astype(np.int64)

    def everything(self) -> NDArray[np.int64]:
        """All series."""
        return np.arange(len(self._series))

    def forecast(self, lean: LeanChronos2, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """Forecast series, each process its share.

        Returns:
            The quantiles at `QUANTILE_LEVELS` in all processes, shape [series, targets, horizon, 9].
        """
        mine = which[self._processes.share(len(which))]
        at_once = max(1, _ROWS_AT_ONCE // self._windows.variates)
        parts = [self._forecast(lean, mine[at : at + at_once]) for at in range(0, len(mine), at_once)]
        shape = (len(which), len(self._config.target), self._ahead, len(QUANTILE_LEVELS))
        found = np.empty(shape, dtype=np.float32)
        own = np.concatenate(parts) if parts else found[:0]
        for rank, part in enumerate(self._processes.gather(own)):
            found[rank :: self._processes.size] = part
        return found

    def _forecast(self, lean: LeanChronos2, which: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = self._windows.held_out(which.tolist()).to(self._processes.device)
        known_levels = lean.model.form.quantiles
        levels = [known_levels.index(level) for level in QUANTILE_LEVELS]
        training = lean.training
        lean.eval()
        with torch.inference_mode(), self._autocast():
            said = lean.quantiles(batch.context, batch.known)
        lean.train(training)
        quantiles = said[:, levels, : self._ahead].float().cpu().unflatten(0, (len(which), -1))
        return np.asarray(quantiles[:, : len(self._config.target)].transpose(-1, -2).numpy())

    def score(self, forecast: NDArray[Any], which: NDArray[np.int64]) -> dict[str, float]:
        """WQL and MASE of a model's forecast, as `instance.metrics` has them; each target is a series there.

        Raises:
            ChronosError: it is made of no numbers.
        """
        check_forecast(self.target(which), forecast)
        return self._score(forecast, which)

    def _score(self, forecast: NDArray[Any], which: NDArray[np.int64]) -> dict[str, float]:
        seen, scale = self._known(which)
        # Of what was never seen before nobody can say anything: not the naive forecast either.
        target = np.where(seen[:, None], self.target(which).reshape(-1, self._ahead), np.nan)
        quantiles = forecast.reshape(-1, self._ahead, len(QUANTILE_LEVELS))
        return score_forecast(target, quantiles, scale)

    def _known(self, which: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Floats]:
        """Whether anything of each past is known, and its `seasonal_error`: shape [series x targets].

        Every score needs them, and they walk all of the data: each past is looked at once.
        """
        count = len(self._config.target)
        places = (which[:, None] * count + np.arange(count)).ravel()
        for place, past in zip(places, self._pasts(which), strict=True):
            if not self._looked_at[place]:
                self._looked_at[place] = True
                self._seen[place] = not np.isnan(past).all()
                self._scale[place] = seasonal_error(past, self._season)
        return self._seen[places], self._scale[places]

    def naive(self, which: NDArray[np.int64], season_length: int) -> dict[str, float]:
        """WQL and MASE of the seasonal-naive forecast, which says the same at every quantile."""
        said = np.stack([seasonal_naive(past, self._ahead, season_length) for past in self._pasts(which)])
        return self._score(np.repeat(said[..., None], len(QUANTILE_LEVELS), axis=-1), which)

    def target(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """What happened, shape [series, targets, horizon]; NaN where it is not known."""
        ends = self._series.offsets[which + 1]
        place = ends[:, None] + np.arange(-self._ahead, 0)
        return np.asarray(self._series.targets[:, place].transpose(1, 0, 2))

    def _pasts(self, which: NDArray[np.int64]) -> Sequence[NDArray[np.float32]]:
        offsets = self._series.offsets
        return [
            target[offsets[number] : offsets[number + 1] - self._ahead]
            for number in which
            for target in self._series.targets
        ]

    def write(self, path: Path, forecast: NDArray[np.float32]) -> None:
        """Write what `forecast` returned of all series, beside what happened (forecast_files.py)."""
        write_forecasts(path, self._series, forecast, self._season)
