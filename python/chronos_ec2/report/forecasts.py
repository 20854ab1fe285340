"""The forecasts as charts: the best, the median and the worst series, and how far each series is off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.report.charts import Chart, Line
from chronos_ec2.report.run_files import FORECASTS, HISTORY
from chronos_ec2.report.series_errors import best_median_worst, mase_by_series, wql_by_series

_MOST_AHEAD: Final = 1000
_MOST_RANKS: Final = 400
_TABLE_ROWS: Final = 5
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series in the table of errors; None where a figure is not known."""

    name: str
    wql: float | None
    naive_wql: float | None
    mase: float | None
    naive_mase: float | None


@dataclass(frozen=True, slots=True)
class ForecastPart:
    """What the report says of the forecasts.

    Attributes:
        examples: a chart for the best, the median and the worst series.
        ranking: the error of each series; None when there is one series alone.
        best, worst: the ends of that list.
        beaten: in how many of `compared` series the model is better than the seasonal-naive forecast.
    """

    examples: list[Chart]
    ranking: Chart | None
    best: list[SeriesRow]
    worst: list[SeriesRow]
    series: int
    beaten: int
    compared: int


@dataclass(frozen=True, slots=True)
class _Table:
    """forecasts.parquet in arrays; series i is `[starts[i]:starts[i + 1]]`."""

    names: list[str]
    starts: NDArray[np.int64]
    times: Floats
    target: Floats
    quantiles: Floats
    levels: list[float]
    naive: Floats | None
    scale: Floats | None


def read_forecasts(folder: Path) -> ForecastPart | None:
    """The forecasts of a run; None when it has none.

    Raises:
        ValueError, OSError, pyarrow.ArrowException: the file is not what a trainer here writes.
    """
    path = folder / FORECASTS
    if not path.is_file():
        return None
    table = _read(path)
    wql = wql_by_series(table.target, table.quantiles, table.levels, table.starts)
    naive_wql = None
    if table.naive is not None:
        said = np.repeat(table.naive[:, None], len(table.levels), axis=1)
        naive_wql = wql_by_series(table.target, said, table.levels, table.starts)
    rows = _rows(table, wql, naive_wql)
    order = [place for place in np.argsort(wql, kind="stable") if np.isfinite(wql[place])]
    examples = [
        _example(table, place, which, float(wql[place]), folder / HISTORY)
        for which, place in best_median_worst(wql).items()
    ]
    both = [row for row in rows if row.wql is not None and row.naive_wql is not None]
    few = min(_TABLE_ROWS, -(-len(order) // 2))
    return ForecastPart(
        examples=examples,
        ranking=_ranking(wql, naive_wql, order),
        best=[rows[place] for place in order[:few]],
        worst=[rows[place] for place in order[few:][-few:][::-1]],
        series=len(table.names),
        beaten=sum((row.wql or 0.0) < (row.naive_wql or 0.0) for row in both),
        compared=len(both),
    )


def _read(path: Path) -> _Table:
    stored = pq.ParquetFile(path).read()
    names, codes = _names(stored)
    levels = sorted(found for name in stored.column_names if (found := _level(name)) is not None)
    if not levels or not len(codes):
        raise ValueError("no quantiles, or no rows")
    times = _seconds(stored["timestamp"])
    if not np.isfinite(times).all():
        raise ValueError("a row without a timestamp")
    order = np.argsort(codes, kind="stable")
    sorted_codes = codes[order]
    starts = np.flatnonzero(np.diff(sorted_codes, prepend=-2))
    by_level = {_level(name): name for name in stored.column_names}
    return _Table(
        names=[names[code] for code in sorted_codes[starts]],
        starts=starts,
        times=times[order],
        target=_floats(stored["target"])[order],
        quantiles=np.stack([_floats(stored[by_level[level]])[order] for level in levels], axis=1),
        levels=levels,
        naive=_optional(stored, "seasonal_naive", order),
        scale=_optional(stored, "seasonal_error", order),
    )


def _names(stored: pa.Table) -> tuple[list[str], NDArray[np.int64]]:
    """The series' names, with the variate where there are several, and which of them each row is of."""
    column = stored["item_id"].cast(pa.string())
    if "variate" in stored.column_names:
        column = pc.binary_join_element_wise(column, stored["variate"].cast(pa.string()), " · ")
    coded = column.combine_chunks().dictionary_encode()
    if coded.null_count:
        raise ValueError("a row without an item_id")
    names: list[str] = coded.dictionary.to_pylist()
    return names, np.asarray(np.from_dlpack(coded.indices.cast(pa.int64())), dtype=np.int64)


def _level(name: str) -> float | None:
    try:
        level = float(name)
    except ValueError:
        return None
    return level if 0.0 < level < 1.0 else None


def _floats(column: pa.ChunkedArray) -> Floats:
    """Numbers, NaN where one is missing. pyarrow's usual ways to numpy import pandas, which takes seconds."""
    given = column.cast(pa.float64()).combine_chunks()
    values = np.frombuffer(given.buffers()[1], np.float64)[given.offset : given.offset + len(given)]
    missing = np.asarray(np.from_dlpack(given.is_null().cast(pa.uint8())), dtype=bool)
    return np.where(missing, np.nan, values)


def _seconds(column: pa.ChunkedArray) -> Floats:
    return _floats(column.cast(pa.timestamp("us")).cast(pa.int64())) / 1e6


def _optional(stored: pa.Table, name: str, order: NDArray[np.int64]) -> Floats | None:
    return _floats(stored[name])[order] if name in stored.column_names else None


def _rows(table: _Table, wql: Floats, naive_wql: Floats | None) -> list[SeriesRow]:
    unknown = np.full(len(table.names), np.nan)
    median = table.quantiles[:, int(np.argmin(np.abs(np.asarray(table.levels) - 0.5)))]
    mase = naive_mase = unknown
    if table.scale is not None:
        mase = mase_by_series(table.target, median, table.scale, table.starts)
        if table.naive is not None:
            naive_mase = mase_by_series(table.target, table.naive, table.scale, table.starts)
    columns = (wql, unknown if naive_wql is None else naive_wql, mase, naive_mase)
    known = [[float(value) if np.isfinite(value) else None for value in column] for column in columns]
    return [SeriesRow(*row) for row in zip(table.names, *known, strict=True)]


def _example(table: _Table, place: int, which: str, error: float, history: Path) -> Chart:
    end = table.starts[place + 1] if place + 1 < len(table.starts) else len(table.target)
    rows = slice(int(table.starts[place]), int(min(end, table.starts[place] + _MOST_AHEAD)))
    past = _history(history, table.names[place])
    before: list[float | None] = [None] * len(past)
    inner = len(table.levels) // 4
    middle = int(np.argmin(np.abs(np.asarray(table.levels) - 0.5)))
    lines = [
        Line(label=f"{table.levels[level]:.0%}", values=[*before, *table.quantiles[rows, level]], role="edge")
        for level in (-1, 0, -1 - inner, inner)
    ]
    if table.naive is not None:
        lines.append(Line(label="seasonal naive", values=[*before, *table.naive[rows]], role="baseline"))
    median = [*before, *table.quantiles[rows, middle]]
    lines.append(Line(label="forecast (median)", values=median, role="model"))
    actual = [*(value for _, value in past), *table.target[rows].tolist()]
    lines.append(Line(label="actual", values=actual, role="actual"))
    return Chart(
        title=f"{which.capitalize()}: {table.names[place]} (WQL {error:.4f})",
        x=[*(time for time, _ in past), *table.times[rows].tolist()],
        x_label="time of the data",
        x_kind="time",
        lines=lines,
        bands=((0, 1), (2, 3)),
    )


def _history(path: Path, name: str) -> list[tuple[float, float]]:
    """The time before the forecast, as far as the trainer kept it: times and values."""
    if not path.is_file():
        return []
    stored = pq.ParquetFile(path).read()
    names, codes = _names(stored)
    if name not in names:
        return []
    times = _seconds(stored["timestamp"])
    mine = np.flatnonzero((codes == names.index(name)) & np.isfinite(times))
    return list(zip(times[mine], _floats(stored["target"])[mine], strict=True))


def _ranking(wql: Floats, naive: Floats | None, order: list[int]) -> Chart | None:
    """The errors from the best series to the worst, some of them where there are many; None for one alone."""
    if len(order) < 2:
        return None
    count = min(len(order), _MOST_RANKS)
    ranks = np.linspace(0, len(order) - 1, count).round().astype(np.int64)
    chosen = np.asarray(order)[ranks]
    lines = []
    if naive is not None:
        lines.append(
            Line(label="seasonal naive", values=naive[chosen].tolist(), role="baseline", points=True)
        )
    lines.append(Line(label="model", values=wql[chosen].tolist(), role="model", points=count < 40))
    return Chart(
        title="Error of each series",
        x=(ranks + 1).astype(np.float64).tolist(),
        x_label="series, from the best to the worst",
        lines=lines,
        y_label="WQL",
        y_from_zero=True,
    )
