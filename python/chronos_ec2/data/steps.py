"""The time from one value of a series to the next, and where it is not the usual one.

Days, weeks, months, quarters and years are as long as they are: in local time a day may last an hour less or
more, a month has 28 to 31 days, and data of business days have no weekends.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

DAY: Final = 24 * 3600 * 1_000_000
"""In microseconds."""
_HOUR: Final = DAY // 24
_WEEK: Final = 7
_TO_ONE_DAY: Final = 13 * _HOUR + _HOUR // 2
"""Added to UTC, midnight of any place in the world is on one day of the week in summer and in winter."""
_LEAST_ROWS: Final = 8
"""Below this, five days of a week may be all that there is of a daily series."""


def _days_of_months(count: int) -> tuple[int, int, int]:
    """A number of months, and the days that they may last."""
    months = np.arange("1996-01", "2004-01", dtype="datetime64[M]")
    days = ((months + count).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
    return count, int(days.min()), int(days.max())


_CALENDAR: Final = tuple(_days_of_months(count) for count in (*range(1, 13), 24, 36, 48, 60))


def months_of(days: float) -> int:
    """How many months a step of so many days is; 0 where it is none."""
    return next((count for count, least, most in _CALENDAR if least <= days <= most), 0)


def usual_steps(codes: NDArray[np.int64], steps: NDArray[np.int64], series: int) -> NDArray[np.int64]:
    """The most common step of each series, the shortest of equals.

    Args:
        codes: the series that each step belongs to, by number; must not fall.
        steps: in microseconds.
        series: how many series there are.

    Returns:
        Microseconds, 0 for a series without a step: shape [series].
    """
    usual = np.zeros(series, dtype=np.int64)
    if not len(steps):
        return usual
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    shortest, longest = np.minimum.reduceat(steps, starts), np.maximum.reduceat(steps, starts)
    usual[codes[starts]] = shortest
    # Most series are even: only the others are worth a sort.
    uneven = np.zeros(series, dtype=bool)
    uneven[codes[starts][shortest != longest]] = True
    chosen = uneven[codes]
    if not chosen.any():
        return usual
    order = np.lexsort((steps[chosen], codes[chosen]))
    code, step = codes[chosen][order], steps[chosen][order]
    runs = np.flatnonzero((np.diff(code, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 0))
    counts = np.diff(runs, append=len(step))
    best = np.lexsort((step[runs], -counts, code[runs]))
    firsts = best[np.flatnonzero(np.diff(code[runs][best], prepend=-1))]
    usual[code[runs][firsts]] = step[runs][firsts]
    return usual


def without_weekends(
    codes: NDArray[np.int64], times: NDArray[np.int64], steps: NDArray[np.int64], usual: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The steps of series of business days as if there were no weekends: from Friday to Monday is a day.

    A daily series is one of business days where two neighbouring days of the week never occur in it.

    Args:
        codes: the series of each row, by number; must not fall.
        times: of each row, microseconds since 1970, UTC; must not fall inside a series.
        steps: from each row to the next, microseconds.
        usual: the usual step of each series.

    Returns:
        The steps, and which series are of business days, shape [series].
    """
    rows = np.bincount(codes, minlength=len(usual))
    daily = (np.abs(usual - DAY) <= _HOUR) & (rows >= _LEAST_ROWS)
    if not daily.any():
        return steps, daily
    days = (times + _TO_ONE_DAY) // DAY
    weekday = (days + 3) % _WEEK  # 1970 began on a Thursday; 0 is Monday
    seen = np.bincount(codes * _WEEK + weekday, minlength=len(usual) * _WEEK).reshape(-1, _WEEK) > 0
    weekend = ~seen & ~np.roll(seen, -1, axis=1)
    business = daily & (seen.sum(axis=1) == _WEEK - 2) & weekend.any(axis=1)
    if not business.any():
        return steps, business
    week = (days + 3 - (weekend.argmax(axis=1) + 2)[codes]) // _WEEK
    return np.where(business[codes[1:]], steps - np.diff(week) * 2 * DAY, steps), business


def is_gap(steps: NDArray[np.int64], usual: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which steps are not the usual one.

    Args:
        steps: in microseconds.
        usual: the usual step of the series that each belongs to.
    """
    odd = np.asarray(steps != usual, dtype=bool)
    odd[odd] = ~_same_calendar_unit(steps[odd], usual[odd])
    return odd


def missing_between(step: int, usual: int) -> int:
    """How many values are missing in a step that is a gap; 0 where it is no multiple of the usual one."""
    count = round(step / usual)
    slack = 0 if usual < DAY - _HOUR else _HOUR
    if months_of(usual / DAY):
        slack += 2 * DAY * count
    return count - 1 if count > 1 and abs(step - count * usual) <= slack else 0


def _same_calendar_unit(step: NDArray[np.int64], usual: NDArray[np.int64]) -> NDArray[np.bool_]:
    same = np.asarray((usual >= DAY - _HOUR) & (np.abs(step - usual) <= _HOUR), dtype=bool)
    for _, least, most in _CALENDAR:
        low, high = least * DAY - _HOUR, most * DAY + _HOUR
        same |= (step >= low) & (step <= high) & (usual >= low) & (usual <= high)
    return same
