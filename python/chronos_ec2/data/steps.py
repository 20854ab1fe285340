"""The time from one value of a series to the next, and where it is not the usual one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_DAY: Final = 24 * 3600 * 1_000_000
_CALENDAR_DAYS: Final = ((28, 31), (90, 92), (365, 366))


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


def is_gap(steps: NDArray[np.int64], usual: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which steps are not the usual one; months, quarters and years may be as long as they are.

    Args:
        steps: in microseconds.
        usual: the usual step of the series that each belongs to.
    """
    odd = np.asarray(steps != usual, dtype=bool)
    odd[odd] = ~_same_calendar_unit(steps[odd], usual[odd])
    return odd


def _same_calendar_unit(step: NDArray[np.int64], usual: NDArray[np.int64]) -> NDArray[np.bool_]:
    same = np.zeros(len(step), dtype=bool)
    for least, most in _CALENDAR_DAYS:
        low, high = least * _DAY, most * _DAY
        same |= (step >= low) & (step <= high) & (usual >= low) & (usual <= high)
    return same
