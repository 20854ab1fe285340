"""What the check before upload lets pass the loader takes; what it calls an error the loader refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series
from chronos_ec2.errors import DataInvalid
from chronos_ec2.workstation.dataset import check_dataset

from .conftest import hours

COLUMNS = Columns(targets=("x", "y"), known_covariates=("k",))
INFINITE, NOTHING = float("inf"), float("nan")
numbers = st.sampled_from([0.0, 1.0, 2.0, NOTHING, None, *[3.0] * 20, INFINITE])
cells = st.tuples(st.sampled_from(["a", "b", None, *"ab" * 10]), st.sampled_from([None, *range(30)]), numbers)
lists = st.lists(numbers, min_size=0, max_size=4)
freqs = st.sampled_from(["h", "h", "h", "h", "MS", "bad", None])


def long_table(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    ids, times, values = zip(*rows, strict=True)
    moments = [None if time is None else hours(30)[time].item() for time in times]
    columns = {"item_id": pa.array(ids, pa.string()), "timestamp": pa.array(moments, pa.timestamp("us"))}
    return pa.table(columns | {name: pa.array(values, pa.float64()) for name in COLUMNS.variates})


def nested_table(rows: list[tuple[str, Any, list[Any], list[Any]]]) -> pa.Table:
    start = hours(1)[0].item()
    return pa.table(
        {
            "item_id": [f"{name}{number}" for number, (name, _, _, _) in enumerate(rows)],
            "timestamp": pa.array([start] * len(rows), pa.timestamp("us")),
            "freq": pa.array([freq for _, freq, _, _ in rows], pa.string()),
            "x": pa.array([values for _, _, values, _ in rows], pa.list_(pa.float64())),
            "y": pa.array([values for _, _, values, _ in rows], pa.list_(pa.float64())),
            "k": pa.array([values for _, _, _, values in rows], pa.list_(pa.float64())),
        }
    )


tables = st.one_of(
    st.lists(cells, min_size=1, max_size=8, unique_by=lambda cell: cell[:2]).map(long_table),
    st.lists(cells, min_size=1, max_size=8).map(long_table),
    st.lists(
        st.one_of(
            st.tuples(st.just("s"), freqs, lists).map(lambda row: (*row, row[2])),
            st.tuples(st.just("s"), freqs, lists, lists),
        ),
        min_size=1,
        max_size=3,
    ).map(nested_table),
)


@example(
    parts=[
        long_table([("a", 0, 0.0)]),
        long_table([("a", 0, 0.0), ("b", 0, 0.0), ("b", 1, 0.0), ("b", 2, 0.0)]),
    ],
    least=3,
    held_out=0,
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(tables, min_size=1, max_size=2), least=st.integers(1, 3), held_out=st.integers(0, 2))
def test_both_take_and_refuse_the_same(
    parts: list[pa.Table], least: int, held_out: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    for number, table in enumerate(parts):
        pq.write_table(table, folder / f"{number}.parquet")
    report = check_dataset(folder, least, COLUMNS, held_out=held_out)
    try:
        found = load_series(folder, COLUMNS, least, held_out=held_out)
    except DataInvalid as refusal:
        assert report.errors, f"the check lets pass what the loader refuses: {refusal}"
        return
    assert not report.errors, [str(item) for item in report.errors]
    empty = [item for item in report.warnings if "has 0 rows" in item.message]
    assert (report.rows, report.series + len(empty)) == (found.rows, len(found) + found.dropped_short)
    short = [item for item in report.warnings if item.kind == "short-series"]
    assert len(short) == found.dropped_short
    unscored = [item.message for item in report.warnings if item.kind == "unscored"]
    assert unscored == [item for item in [*found.warnings(held_out)] if "they are not scored" in item]


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_both_count_the_same_gaps(tmp_path: Path, lost: int) -> None:
    daily = hours(1)[0] + np.arange(20) * np.timedelta64(1, "D")
    months = np.arange("2020-01", "2021-09", dtype="datetime64[M]").astype("datetime64[us]")
    hourly = np.delete(hours(20 + lost), np.arange(lost) * 3 + 2)
    ids = ["hourly"] * 20 + ["daily"] * 20 + ["monthly"] * 20
    times = np.concatenate([hourly, daily, months])
    pq.write_table(
        pa.table({"item_id": ids, "timestamp": times, "target": np.ones(60)}), tmp_path / "f.parquet"
    )
    told = [item for item in check_dataset(tmp_path, 1).warnings if item.kind == "gap"]
    assert len(told) == load_series(tmp_path, Columns(), 1).gaps == lost
