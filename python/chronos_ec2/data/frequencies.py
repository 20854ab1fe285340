"""The times of a series that is stored as its start and a frequency, as pandas and GluonTS call it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

KNOWN: Final = "s, min, h, D, W, M, Q and Y are known, with a number before them as in 15min"

_FREQUENCY: Final = re.compile(r"(\d{0,6})([A-Za-z]+?)(?:-[A-Z]{3})?")
_SECOND: Final = 1_000_000
_MICROSECONDS: Final = {
    **dict.fromkeys(("us", "U"), 1),
    **dict.fromkeys(("ms", "L"), 1_000),
    **dict.fromkeys(("s", "S"), _SECOND),
    **dict.fromkeys(("min", "T"), 60 * _SECOND),
    **dict.fromkeys(("h", "H"), 3600 * _SECOND),
    **dict.fromkeys(("d", "D"), 86400 * _SECOND),
    "W": 7 * 86400 * _SECOND,
}
_MONTHS: Final = {
    **dict.fromkeys(("M", "ME", "MS"), 1),
    **dict.fromkeys(("Q", "QE", "QS"), 3),
    **dict.fromkeys(("A", "AS", "Y", "YE", "YS"), 12),
}
_FROM_THE_END: Final = ("M", "ME", "Q", "QE", "A", "Y", "YE")

Frequency = tuple[int, str]
"""How many, of which unit."""


def parse_frequency(text: str | None) -> Frequency | None:
    """Read a frequency such as `h`, `15min` or `W-SUN`; None when it is not known."""
    match = _FREQUENCY.fullmatch(text or "")
    if match is None or match[1].strip("0") == "" != match[1]:
        return None
    return (int(match[1] or 1), match[2]) if match[2] in _MICROSECONDS or match[2] in _MONTHS else None


def spread(
    starts: NDArray[np.int64], frequencies: Sequence[Frequency], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The times of series behind each other.

    Months, quarters and years are as long as they are: from the 31st of January a month leads to the last day
    of February.

    Args:
        starts: microseconds since 1970, shape [series].
        frequencies: one for each series.
        lengths: how many values each has.

    Returns:
        Microseconds since 1970, shape [sum of lengths].
    """
    first = np.cumsum(lengths) - lengths
    number = np.arange(int(lengths.sum())) - np.repeat(first, lengths)
    steps = np.array([count * _MICROSECONDS.get(unit, 0) for count, unit in frequencies], dtype=np.int64)
    times = np.repeat(starts, lengths) + number * np.repeat(steps, lengths)
    for row in np.flatnonzero(steps == 0).tolist():
        part = slice(first[row], first[row] + lengths[row])
        times[part] = _months(int(starts[row]), frequencies[row], number[part])
    return np.asarray(times, dtype=np.int64)


def _months(start: int, frequency: Frequency, number: NDArray[np.int64]) -> NDArray[np.int64]:
    count, unit = frequency
    if not len(number):
        return number
    moment = np.datetime64(start, "us")
    month, day = moment.astype("datetime64[M]"), moment.astype("datetime64[D]")
    months = month + number * (count * _MONTHS[unit])
    first_days = months.astype("datetime64[D]")
    length = ((months + 1).astype("datetime64[D]") - first_days).astype(np.int64)
    at = (day - month.astype("datetime64[D]")).astype(np.int64)
    from_the_end = unit in _FROM_THE_END and at == length[0] - 1
    days = first_days + (length - 1 if from_the_end else np.minimum(at, length - 1))
    return np.asarray((days.astype("datetime64[us]") + (moment - day)).astype(np.int64), dtype=np.int64)
