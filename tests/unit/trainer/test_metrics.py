from __future__ import annotations

import math

import numpy as np
import pytest

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.metrics import (
    QUANTILE_LEVELS,
    check_forecast,
    mean_absolute_scaled_error,
    season_from_spacing,
    seasonal_error,
    seasonal_naive,
    weighted_quantile_loss,
)

NAN = float("nan")


def same_everywhere(forecast: list[list[float]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.repeat(np.array(forecast)[..., None], len(QUANTILE_LEVELS), axis=-1)


def test_wql_of_a_point_forecast_is_its_weighted_absolute_error() -> None:
    # Twice the pinball loss, as a mean over levels that lie evenly around a half, is the absolute error.
    assert weighted_quantile_loss([[10.0, 20.0]], same_everywhere([[12.0, 17.0]])) == pytest.approx(5 / 30)


def test_wql_weighs_each_side_by_its_level() -> None:
    forecast = np.array([[[1.0, 2, 3, 4, 5, 6, 7, 8, 9]]])
    # Target 5: level q forecasts 10 q; below, 2 q (5 - 10 q); above, 2 (1 - q) (10 q - 5).
    by_hand = [2 * q * (5 - 10 * q) if q < 0.5 else 2 * (1 - q) * (10 * q - 5) for q in QUANTILE_LEVELS]
    assert weighted_quantile_loss([[5.0]], forecast) == pytest.approx(sum(by_hand) / 9 / 5)


def test_wql_sums_over_series_before_it_divides() -> None:
    forecast = same_everywhere([[2.0], [90.0]])
    assert weighted_quantile_loss([[1.0], [100.0]], forecast) == pytest.approx(11 / 101)


def test_wql_leaves_missing_targets_out_and_takes_absolute_values() -> None:
    forecast = same_everywhere([[-12.0, 1e9]])
    assert weighted_quantile_loss([[-10.0, NAN]], forecast) == pytest.approx(0.2)


@pytest.mark.parametrize("target", [[[NAN]], [[0.0]]], ids=["nothing observed", "all zero"])
def test_wql_is_unknown_where_it_is_not_defined(target: list[list[float]]) -> None:
    assert math.isnan(weighted_quantile_loss(target, same_everywhere([[1.0]])))


def test_seasonal_error_is_the_mean_change_over_a_season() -> None:
    assert seasonal_error([1, 2, 4, 8], 2) == pytest.approx((3 + 6) / 2)


def test_seasonal_error_skips_pairs_with_a_missing_value() -> None:
    assert seasonal_error([1, NAN, 4, 8, 6], 2) == pytest.approx((3 + 2) / 2)


def test_seasonal_error_of_a_past_shorter_than_a_season_takes_steps_of_one() -> None:
    assert seasonal_error([1, 2, 4], 3) == pytest.approx(1.5)
    assert math.isnan(seasonal_error([1], 3))


def test_mase_scales_each_series_by_its_own_error() -> None:
    target, median = [[10.0, 12.0], [100.0, 100.0]], [[11.0, 10.0], [110.0, 130.0]]
    assert mean_absolute_scaled_error(target, median, [0.5, 10.0]) == pytest.approx((2 + 4 + 1 + 3) / 4)


def test_mase_leaves_missing_targets_and_series_without_scale_out() -> None:
    target, median = [[10.0, NAN], [1.0, 1.0], [1.0, 1.0]], [[13.0, 0.0], [9.0, 9.0], [9.0, 9.0]]
    assert mean_absolute_scaled_error(target, median, [1.0, 0.0, NAN]) == pytest.approx(3)
    assert math.isnan(mean_absolute_scaled_error(target, median, [0, 0, 0]))


def test_seasonal_naive_repeats_the_last_season() -> None:
    assert seasonal_naive([9, 9, 1, 2, 3], 7, 3).tolist() == [1, 2, 3, 1, 2, 3, 1]


def test_seasonal_naive_takes_a_missing_phase_from_the_season_before_or_the_last_value() -> None:
    assert seasonal_naive([1, NAN, 3, NAN, NAN, 6], 3, 3).tolist() == [1, 6, 6]


def test_seasonal_naive_of_a_past_shorter_than_a_season_repeats_the_last_value() -> None:
    assert seasonal_naive([1, 2, NAN], 2, 5).tolist() == [2, 2]
    assert np.isnan(seasonal_naive([NAN, NAN], 2, 1)).all()


@pytest.mark.parametrize(
    ("seconds", "season"),
    [
        (1, 3600), (10, 360), (60, 1440), (300, 288), (1800, 48), (3600, 24), (7200, 12), (5 * 3600, 1),
        (86400, 7), (7 * 86400, 1), (30 * 86400, 12), (91 * 86400, 4), (365 * 86400, 1), (0, 1),
    ],
)  # fmt: skip
def test_the_season_follows_from_the_spacing(seconds: float, season: int) -> None:
    assert season_from_spacing(seconds) == season


def test_forecasts_that_are_no_numbers_are_refused_and_zeros_that_came_true_are_not() -> None:
    zeros = np.zeros((2, 4))
    forecast = np.zeros((2, 4, 9))
    check_forecast(zeros, forecast)
    assert np.isnan(weighted_quantile_loss(zeros, forecast)), "which says nothing about the forecast"
    forecast[1, 2, 3] = np.nan
    with pytest.raises(ChronosError, match="no numbers"):
        check_forecast(zeros, forecast)
    unseen = zeros.copy()
    unseen[1, 2] = np.nan
    check_forecast(unseen, forecast)
