"""The order of rows by time, whichever way it is found."""

from __future__ import annotations

import numpy as np
import pytest

from chronos_ec2.data.flat import order_by_time

HOUR = 3_600_000_000


@pytest.mark.parametrize(
    ("count", "step"),
    [(1, HOUR), (1000, HOUR), (1 << 16, 1), ((1 << 16) + 1, 1), (1000, 1 << 20)],
    ids=["one row", "hours", "the most that is counted", "one more", "long steps"],
)
def test_rows_are_sorted_by_time(count: int, step: int) -> None:
    times = -HOUR + step * np.random.default_rng(0).permutation(count)
    assert (np.diff(times[order_by_time(times)]) > 0).all()


def test_rows_at_no_common_step_are_sorted_too() -> None:
    times = np.array([5 * HOUR, -7, 1 << 60, 0, 3])
    assert times[order_by_time(times)].tolist() == sorted(times.tolist())


def test_rows_at_one_time_stay_together() -> None:
    assert sorted(order_by_time(np.full(9, HOUR)).tolist()) == list(range(9))
