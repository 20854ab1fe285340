from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronos_ec2.data import series as series_module
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import SeriesSet
from chronos_ec2.errors import DataInvalid

NAN = float("nan")
START = np.datetime64("2024-01-01T00", "us")


def load_series(folder: Path, min_length: int) -> SeriesSet:
    return series_module.load_series(folder, Columns(), min_length)


def write_series(folder: Path, name: str, series: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = [key for key, values in series.items() for _ in values]
    times = [hours(len(values)) for values in series.values()]
    write(
        folder,
        name,
        pa.array(ids, pa.string()),
        np.concatenate(times),
        np.concatenate(list(map(floats, series.values()))),
    )


def floats(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, dtype=float)


def write(folder: Path, name: str, ids: Any, times: Any, targets: Any) -> None:
    pq.write_table(pa.table({"item_id": ids, "timestamp": times, "target": targets}), folder / name)


def hours(count: int) -> np.ndarray[Any, Any]:
    return START + np.arange(count) * np.timedelta64(1, "h")


def test_series_that_span_files_in_any_order_come_out_whole_and_sorted(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(20)
    write(tmp_path, "2.parquet", ["b"] * 20, hours(20)[order], np.arange(20.0)[order])
    write(
        tmp_path,
        "1.parquet",
        ["a"] * 5 + ["c"],
        hours(10)[[5, 6, 7, 8, 9, 0]],
        np.array([5.0, 6, 7, 8, 9, 99]),
    )
    write(tmp_path, "3.parquet", ["a"] * 5, hours(5), np.arange(5.0))
    series = load_series(tmp_path, min_length=10)
    assert series.ids == ["a", "b"]
    assert series.values[0].tolist() == [*range(10), *range(20)]
    assert series.offsets.tolist() == [0, 10, 30]
    assert (series.rows, series.dropped_short, series.gaps) == (31, 1, 0)
    assert series.spacing_seconds == 3600


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([3, 3, 3]), ["3"]),
        (pa.array(["x", "x", "x"]).dictionary_encode(), ["x"]),
        (pa.array(["x", "x", "x"], pa.large_string()), ["x"]),
    ],
    ids=["int", "categorical", "large text"],
)
def test_ids_and_targets_of_any_type_are_read(tmp_path: Path, ids: Any, expected: list[str]) -> None:
    days = pa.array(np.datetime64("2024-01-01") + np.arange(3), pa.date32())
    write(tmp_path, "a.parquet", ids, days, pa.array([1, 2, None], pa.int32()))
    series = load_series(tmp_path, min_length=1)
    assert series.ids == expected
    assert series.spacing_seconds == 86400
    assert np.isnan(series.values[0, 2])


def test_zoned_times_become_utc(tmp_path: Path) -> None:
    zoned = pa.array(hours(3)).cast(pa.timestamp("ns", tz="America/New_York"))
    write(tmp_path, "a.parquet", ["a"] * 3, zoned, np.ones(3))
    assert load_series(tmp_path, 1).times.tolist() == hours(3).astype("int64").tolist()


def test_a_series_without_any_value_is_dropped(tmp_path: Path) -> None:
    write_series(tmp_path, "a.parquet", {"a": [NAN] * 5, "b": [1.0] * 5})
    series = load_series(tmp_path, 5)
    assert (series.ids, series.dropped_short) == (["b"], 1)


def test_gaps_in_time_are_counted_not_filled(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.parquet",
        ["a"] * 9 + ["b"] * 10,
        np.append(np.delete(hours(10), 4), hours(10)),
        np.ones(19),
    )
    assert load_series(tmp_path, 1).gaps == 1


def test_the_fingerprint_knows_the_data_and_not_its_files(tmp_path: Path) -> None:
    prints = []
    for number, parts in enumerate(
        ([{"a": [1, 2], "b": [3, 4]}], [{"b": [3, 4]}, {"a": [1, 2]}], [{"a": [1, 9]}])
    ):
        folder = tmp_path / str(number)
        for part, content in enumerate(parts):
            write_series(folder, f"{part}.parquet", content)
        prints.append(load_series(folder, 1).fingerprint())
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("ids", "times", "targets", "says"),
    [
        (["a"] * 3, hours(3), [1, float("inf"), 3], "a.parquet, row 1, column target: infinite"),
        (["a"] * 3, hours(3), [1, 1e39, 3], "a.parquet, row 1, column target: infinite"),
        (["a", None, "a"], hours(3), [1.0, 2, 3], "a.parquet, row 1, column item_id: null"),
        (
            ["a"] * 3,
            pa.array([*hours(2).tolist(), None]),
            [1.0, 2, 3],
            "a.parquet, row 2, column timestamp: null",
        ),
        (["a"] * 3, hours(3)[[0, 1, 1]], [1.0, 2, 3], "'a' has two rows at 2024-01-01T01:00"),
        (
            ["a"] * 3,
            ["x", "y", "z"],
            [1.0, 2, 3],
            "a.parquet, column timestamp: string where a timestamp or date is expected",
        ),
        (["a"] * 2, hours(2), [1.0, 2], "longest has 2 rows and training needs 3"),
    ],
    ids=["inf", "too large", "null id", "null time", "duplicate", "text time", "short"],
)
def test_bad_data_is_refused_by_file_and_row(
    tmp_path: Path, ids: Any, times: Any, targets: Any, says: str
) -> None:
    write(tmp_path, "a.parquet", ids, times, np.asarray(targets, dtype=float))
    with pytest.raises(DataInvalid, match=says.replace("(", r"\(")):
        load_series(tmp_path, 3)


def test_no_file_a_cut_file_a_missing_column_and_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"no \.parquet file"):
        load_series(tmp_path, 1)
    write_series(tmp_path, "a.parquet", {"a": []})
    with pytest.raises(DataInvalid, match="no series is long enough"):
        load_series(tmp_path, 1)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataInvalid, match=r"a\.parquet: cannot be read"):
        load_series(tmp_path, 1)
    pq.write_table(pa.table({"item_id": ["a"], "target": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataInvalid, match=r"a\.parquet, column timestamp: the column is missing; rename one of: item_id"
    ):
        load_series(tmp_path, 1)


def test_known_covariates_that_are_missing_where_they_are_needed_are_counted(tmp_path: Path) -> None:
    values = pa.array([None, 1.0, 2.0, None, 4.0] * 2)
    table = {"item_id": ["a"] * 5 + ["b"] * 5, "timestamp": np.tile(hours(5), 2), "target": np.ones(10)}
    pq.write_table(pa.table({**table, "k": values, "p": pa.nulls(10, pa.float64())}), tmp_path / "f.parquet")
    columns = Columns(past_covariates=("p",), known_covariates=("k",))
    series = series_module.load_series(tmp_path, columns, 1)
    assert [series.missing_ahead(horizon) for horizon in (1, 2, 5)] == [0, 2, 4]
    assert series.missing == 0, "only targets count there"


def test_the_report_has_the_facts_as_plain_json(tmp_path: Path) -> None:
    write_series(tmp_path, "a.parquet", {"a": [1.0, NAN, 3.0, 4.0], "b": [1.0]})
    write_series(tmp_path, "b.parquet", {"c": [1.0] * 4})
    report = load_series(tmp_path, 2).report()
    assert json.loads(json.dumps(report)) == {
        "files": 2,
        "rows": 9,
        "series": 2,
        "dropped_short": 1,
        "gaps": 0,
        "missing_share": 1 / 8,
        "spacing_seconds": 3600.0,
        "other_spacing": 0,
        "unscored": 0,
    }


def test_rows_of_the_future_alone_are_nothing_to_score_by(tmp_path: Path) -> None:
    future = [1.0, 2.0, 3.0, 4.0, NAN, NAN]
    write_series(tmp_path, "a.parquet", {"a": future, "b": future})
    with pytest.raises(DataInvalid, match="no series has a known target in its last 2 rows"):
        series_module.load_series(tmp_path, Columns(), 1, held_out=2)
    found = series_module.load_series(tmp_path, Columns(), 1, held_out=3)
    assert (len(found), found.unscored) == (2, 0)


def test_a_series_with_nothing_to_learn_from_is_left_out_and_one_with_nothing_to_score_by_is_told(
    tmp_path: Path,
) -> None:
    rows = {"old": [1.0, 2, 3, 4, 5], "new": [NAN, NAN, NAN, 4, 5], "gone": [1.0, 2, 3, NAN, NAN]}
    write_series(tmp_path, "a.parquet", rows)
    found = series_module.load_series(tmp_path, Columns(), 5, held_out=2)
    assert (found.ids, found.dropped_short, found.unscored) == (["gone", "old"], 1, 1)
    assert found.warnings(2) == [
        "1 series too short or with nothing to learn from, left out",
        "2 targets are missing (20.0%): nothing is learned from them",
        "1 series have no target in their last 2 rows: they are not scored",
    ]


def test_series_that_are_spaced_otherwise_than_most_are_told(tmp_path: Path) -> None:
    daily = START + np.arange(30) * np.timedelta64(1, "D")
    times = np.concatenate([hours(90), daily, daily])
    ids = ["hourly"] * 90 + ["d"] * 30 + ["e"] * 30
    write(tmp_path, "a.parquet", ids, times, np.ones(150))
    found = load_series(tmp_path, 1)
    assert (found.spacing_seconds, found.other_spacing, found.gaps) == (3600, 2, 0)
    assert found.warnings(1) == ["2 series are spaced otherwise than most, whose season is taken for all"]


def test_the_fingerprint_knows_what_a_column_is_for(tmp_path: Path) -> None:
    table = {"item_id": ["a"] * 2, "timestamp": hours(2), "x": [1.0, 2.0], "y": [1.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    roles = (
        Columns(targets=("x", "y")),
        Columns(targets=("x",), past_covariates=("y",)),
        Columns(targets=("x",), known_covariates=("y",)),
    )
    assert len({series_module.load_series(tmp_path, columns, 1).fingerprint() for columns in roles}) == 3
