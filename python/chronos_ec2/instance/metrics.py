"""How good a forecast is: WQL and MASE, and the seasonal-naive forecast that a model must beat.

The definitions are those of GluonTS (`gluonts.ev.metrics`: MeanWeightedSumQuantileLoss at 0.1, ..., 0.9 and
MASE of the median), which the Chronos papers and their evaluation script report. A target that is NaN was not
observed and counts nowhere. MASE depends on the season: GluonTS takes 1 for daily data, where a week is taken
here; with `season_length: 1` such figures compare.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chronos_ec2.data.steps import months_of
from chronos_ec2.errors import ChronosError

Floats = NDArray[np.float64]

QUANTILE_LEVELS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MEDIAN: Final = QUANTILE_LEVELS.index(0.5)

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_WEEKS_A_YEAR: Final = 52
_MONTHS_A_YEAR: Final = 12


def weighted_quantile_loss(target: ArrayLike, forecast: ArrayLike) -> float:
    """WQL: the mean over the levels of `2 * sum(pinball) / sum(|target|)`, sums over all series and times.

    Args:
        target: what happened, shape [series, horizon]; NaN where it is not known.
        forecast: the quantiles at `QUANTILE_LEVELS`, shape [series, horizon, 9].

    Returns:
        The loss; NaN when nothing was observed or every observed target is 0.
    """
    actual = np.asarray(target, dtype=np.float64)
    seen = ~np.isnan(actual)
    total = float(np.abs(actual[seen]).sum())
    if total == 0.0:
        return float("nan")
    levels = np.asarray(QUANTILE_LEVELS)
    error = actual[seen][:, None] - np.asarray(forecast, dtype=np.float64)[seen]
    pinball = np.maximum(levels * error, (levels - 1.0) * error)
    return float(np.mean(2.0 * pinball.sum(axis=0) / total))


def check_forecast(target: ArrayLike, forecast: ArrayLike) -> None:
    """See that a model's forecast of what happened is made of numbers.

    WQL does not tell: where everything that happened is 0 it has no value, whatever the forecast.

    Args:
        target, forecast: as for `weighted_quantile_loss`.

    Raises:
        ChronosError: one is NaN or infinite.
    """
    seen = ~np.isnan(np.asarray(target, dtype=np.float64))
    if not np.isfinite(np.asarray(forecast)[seen]).all():
        raise ChronosError(
            "the model's forecasts are no numbers (NaN or infinite): lower learning_rate or check the data"
        )


def score_forecast(target: ArrayLike, forecast: NDArray[Any], scale: ArrayLike) -> dict[str, float]:
    """WQL and MASE of a forecast.

    Args:
        target, forecast: as for `weighted_quantile_loss`.
        scale: the seasonal error of each series.
    """
    return {
        "WQL": weighted_quantile_loss(target, forecast),
        "MASE": mean_absolute_scaled_error(target, forecast[..., MEDIAN], scale),
    }


def seasonal_error(past: ArrayLike, season_length: int) -> float:
    """The in-sample error of the seasonal-naive forecast: mean |y[t] - y[t - m]| over one series' past.

    As in GluonTS, m is 1 when the past is no longer than a season.

    Args:
        past: the series before the held-out window, shape [time]; NaN where it is not known.
        season_length: m, in steps.

    Returns:
        The error; NaN when no two observed values lie a season apart.
    """
    values = np.asarray(past, dtype=np.float64)
    lag = season_length if season_length < len(values) else 1
    differences = np.abs(values[lag:] - values[:-lag])
    seen = differences[~np.isnan(differences)]
    return float(seen.mean()) if seen.size else float("nan")


def mean_absolute_scaled_error(target: ArrayLike, median: ArrayLike, scale: ArrayLike) -> float:
    """MASE: the mean over every observed value of `|target - median| / scale of its series`.

    A series whose scale is 0 or unknown (its past never changed from season to season) has no scaled error
    and is left out.

    Args:
        target: what happened, shape [series, horizon]; NaN where it is not known.
        median: the forecast's median, same shape.
        scale: `seasonal_error` of each series, shape [series].

    Returns:
        The error: below 1 beats the past error of the seasonal-naive forecast. NaN when no series counts.
    """
    factor = np.asarray(scale, dtype=np.float64)
    usable = np.isfinite(factor) & (factor > 0)
    error = np.abs(np.asarray(target, dtype=np.float64) - np.asarray(median, dtype=np.float64))
    scaled = error[usable] / factor[usable][:, None]
    seen = scaled[~np.isnan(scaled)]
    return float(seen.mean()) if seen.size else float("nan")


def seasonal_naive(past: ArrayLike, horizon: int, season_length: int) -> Floats:
    """Say again what was one season ago: `y[T + h] = y[T + h - k * m]`, the newest known value of that phase.

    A value that is missing one season back is taken from the season before it; a phase that was never
    observed, or a past shorter than a season, gets the last known value.

    Args:
        past: the series before the forecast, shape [time]; NaN where it is not known.
        horizon: how many steps to forecast.
        season_length: m, in steps.

    Returns:
        The forecast, shape [horizon]; NaN when nothing of the past is known.
    """
    # The newest season says it all where nothing is missing: a long past is not walked.
    newest = np.asarray(past)[-season_length:].astype(np.float64)
    if len(newest) == season_length and not np.isnan(newest).any():
        return np.resize(newest, horizon)
    values = np.asarray(past, dtype=np.float64)
    known = values[~np.isnan(values)]
    last_known = known[-1] if known.size else np.nan
    whole = len(values) // season_length
    if whole == 0:
        return np.full(horizon, last_known)
    seasons = values[len(values) - whole * season_length :].reshape(whole, season_length)
    phase = seasons[-1].copy()
    for older in seasons[-2::-1]:
        if not np.isnan(phase).any():
            break
        phase = np.where(np.isnan(phase), older, phase)
    return np.resize(np.where(np.isnan(phase), last_known, phase), horizon)


def season_from_spacing(seconds: float, business_days: bool = False) -> int:
    """The usual season for a spacing: a day for anything shorter, a week for days, a year for months.

    Hourly gives 24, half-hourly 48, daily 7, business days 5, monthly 12, every other month 6, quarterly 4;
    below a minute the season is the hour (as GluonTS has it); a spacing that divides none of them gives 1, no
    season.

    Args:
        seconds: the time from one value to the next.
        business_days: whether there are no values of weekends.
    """
    if seconds <= 0:
        return 1
    if seconds < _DAY:
        span = _DAY if seconds >= 60 else _HOUR
        steps = span / seconds
        return int(steps) if steps.is_integer() else 1
    if seconds == _DAY:
        return 5 if business_days else 7
    months = months_of(seconds / _DAY)
    return _MONTHS_A_YEAR // months if months and _MONTHS_A_YEAR % months == 0 else 1


def seasons_from_spacing(seconds: float, business_days: bool = False) -> tuple[int, int]:
    """The usual season and the next longer one: a week for anything shorter than a day, else a year.

    Hourly gives (24, 168), daily (7, 364), business days (5, 260), monthly (12, 12).

    Args:
        seconds: the time from one value to the next.
        business_days: whether there are no values of weekends.
    """
    near = season_from_spacing(seconds, business_days)
    if near == 1:
        return near, near
    if seconds < _DAY:
        return near, 7 * near
    return near, _WEEKS_A_YEAR * near if seconds == _DAY else near
