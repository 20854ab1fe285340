"""Which steps in time are gaps: the calendar's own unevenness is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from chronos_ec2.data.steps import DAY, is_gap, missing_between, months_of, usual_steps, without_weekends

HOUR = DAY // 24


def gaps(times: pd.DatetimeIndex) -> tuple[list[int], bool]:
    """Where the gaps of one series are, and whether it is one of business days."""
    moments: NDArray[np.int64] = times.as_unit("us").asi8
    codes, steps = np.zeros(len(moments), dtype=np.int64), np.diff(moments)
    usual = usual_steps(codes[1:], steps, 1)
    working, business = without_weekends(codes, moments, steps, usual)
    return np.flatnonzero(is_gap(working, usual[codes[1:]])).tolist(), bool(business[0])


@pytest.mark.parametrize(
    "zone", [None, "America/New_York", "Europe/London", "Europe/Berlin", "Pacific/Auckland"]
)
@pytest.mark.parametrize("freq", ["D", "B", "W", "MS", "ME", "2MS", "QS-FEB", "QE-JAN", "6MS", "YS", "2YS"])
def test_the_calendar_makes_no_gaps(freq: str, zone: str | None) -> None:
    assert gaps(pd.date_range("2015-01-01", periods=150, freq=freq, tz=zone)) == ([], freq == "B")


def test_a_missing_day_is_a_gap_also_beside_a_weekend() -> None:
    friday_to_tuesday = pd.bdate_range("2024-01-01", periods=40).delete([5, 12])
    assert gaps(friday_to_tuesday) == ([4, 10], True)
    assert gaps(pd.date_range("2024-01-01", periods=40).delete([5, 12])) == ([4, 10], False)


def test_a_work_week_elsewhere_has_no_weekend_either() -> None:
    days = pd.date_range("2024-01-01", periods=70)
    assert gaps(days[~days.day_of_week.isin([4, 5])]) == ([], True)
    assert gaps(days[~days.day_of_week.isin([0, 3])])[1] is False


@pytest.mark.parametrize(
    ("step", "usual", "missing"),
    [
        (2 * HOUR, HOUR, 1),
        (90 * 60_000_000, HOUR, 0),
        (3 * DAY, DAY, 2),
        (47 * HOUR, DAY, 1),
        (36 * HOUR, DAY, 0),
        (61 * DAY, 31 * DAY, 1),
        (59 * DAY, 30 * DAY, 1),
        (181 * DAY, 92 * DAY, 1),
    ],
)
def test_how_many_values_are_missing(step: int, usual: int, missing: int) -> None:
    assert missing_between(step, usual) == missing


def test_months_are_told_from_days() -> None:
    steps: dict[float, Any] = {28: 1, 31: 1, 32: 0, 61: 2, 89: 3, 92: 3, 184: 6, 365: 12, 731: 24, 7: 0}
    assert {days: months_of(days) for days in steps} == steps
