"""A chart as the page's script draws it: columns of numbers, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

MOST_POINTS: Final = 800
Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One column of a chart.

    Attributes:
        values: as many as the chart's x; None leaves a gap.
        role: which colour and form it has: `model`, `baseline`, `actual`, `a` to `d`, or `edge` (unseen: the
            border of a band).
        points: drawn as points, not as a line.
    """

    label: str
    values: list[float | None]
    role: str
    points: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        title: above it.
        x: ascending; seconds since 1970 where `x_kind` is `time`.
        bands: pairs of lines by number (0 is the first), upper and lower, between which is shaded.
        y_from_zero: whether 0 is to be seen.
        y_most: the upper end of the axis, where that is known.
    """

    title: str
    x: list[float]
    x_label: str
    lines: list[Line]
    x_kind: Literal["number", "time"] = "number"
    y_label: str = ""
    bands: tuple[tuple[int, int], ...] = ()
    y_from_zero: bool = False
    y_most: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The chart as plain values; numbers that are not finite are null."""
        plain = asdict(self)
        for line in plain["lines"]:
            line["values"] = [rounded(value) for value in line["values"]]
        return plain


def rounded(value: float | None) -> float | None:
    """Six digits, which no eye can tell from all of them; None for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def thinned(
    points: Sequence[tuple[float, float | None]], most: int = MOST_POINTS
) -> list[tuple[float, float | None]]:
    """At most so many points that look like all of them: of each stretch its lowest and its highest.

    Args:
        points: x and y, by x.
    """
    if len(points) <= most:
        return list(points)
    width = math.ceil(len(points) / (most // 2 - 1))
    kept = [points[0]]
    for begin in range(1, len(points) - 1, width):
        stretch = points[begin : min(begin + width, len(points) - 1)]
        known = [point for point in stretch if point[1] is not None] or stretch[:1]
        ends = {min(known, key=_height), max(known, key=_height)}
        kept += sorted(ends)
    return [*kept, points[-1]]


def _height(point: tuple[float, float | None]) -> float:
    return point[1] if point[1] is not None else 0.0


def joined(
    columns: Sequence[Sequence[tuple[float, float | None]]],
) -> tuple[list[float], list[list[float | None]]]:
    """Several columns of points on one x: where a column has no point it is None."""
    known = [dict(column) for column in columns]
    x = sorted({place for column in known for place in column})
    return x, [[column.get(place) for place in x] for column in known]
