"""The same data in any format, order and split into files give the same series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronos_ec2.data import flat, reader
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series
from chronos_ec2.errors import DataInvalid

START = np.datetime64("2024-01-31T06", "us")
HOUR = np.timedelta64(1, "h")
ALL = Columns(targets=("x", "y"), past_covariates=("p",), known_covariates=("k",))

Series = dict[str, np.ndarray[Any, Any]]
"""Values by name, each of shape [variates, time]."""


def write_long(folder: Path, series: Series, rng: np.random.Generator) -> None:
    """Rows in any order, in any number of files."""
    ids = np.concatenate([[name] * values.shape[1] for name, values in series.items()])
    times = np.concatenate([START + np.arange(values.shape[1]) * HOUR for values in series.values()])
    values = np.concatenate(list(series.values()), axis=1)
    order = rng.permutation(len(ids)) if rng.random() < 0.7 else np.arange(len(ids))
    for number, part in enumerate(np.array_split(order, rng.integers(1, 4))):
        columns = {name: values[place][part] for place, name in enumerate(ALL.variates)}
        table = pa.table({"item_id": pa.array(ids[part], pa.string()), "timestamp": times[part], **columns})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=int(rng.integers(1, 50)))


def write_nested(folder: Path, series: Series, rng: np.random.Generator) -> None:
    """A row a series, some of them in two pieces; times as lists, or as a start and a frequency."""
    pieces = []
    for name, values in series.items():
        cut = int(rng.integers(0, values.shape[1] + 1)) if rng.random() < 0.5 else values.shape[1]
        pieces += [(name, 0, values[:, :cut]), (name, cut, values[:, cut:])]
    rows = [piece for piece in pieces if piece[2].shape[1]]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    starts = [START + at * HOUR for _, at, _ in rows]
    table: dict[str, Any] = {"item_id": [name for name, _, _ in rows]}
    if rng.random() < 0.5:
        lengths = [values.shape[1] for _, _, values in rows]
        spans = [(start + np.arange(n) * HOUR).tolist() for start, n in zip(starts, lengths, strict=True)]
        table["timestamp"] = pa.array(spans, pa.list_(pa.timestamp("us")))
    else:
        table |= {"timestamp": np.array(starts), "freq": ["h"] * len(rows)}
    for place, name in enumerate(ALL.variates):
        table[name] = [values[place].tolist() for _, _, values in rows]
    write_parts(folder, "nested", pa.table(table), rng)


def write_gluonts(folder: Path, series: Series, rng: np.random.Generator) -> None:
    """A row a series, the frequency in the schema."""
    table = pa.table(
        {
            "item_id": list(series),
            "start": np.array([START] * len(series)),
            "target": [values[:2].tolist() for values in series.values()],
            "past_feat_dynamic_real": [values[2:3].tolist() for values in series.values()],
            "feat_dynamic_real": [values[3:].tolist() for values in series.values()],
        }
    ).replace_schema_metadata({"freq": "1h"})
    write_parts(folder, "gluonts", table, rng)


def write_parts(folder: Path, name: str, table: pa.Table, rng: np.random.Generator) -> None:
    """Write a table as one file or two, in row groups of a few rows."""
    cut = int(rng.integers(0, table.num_rows))
    for number, part in enumerate((table[:cut], table[cut:])):
        if part.num_rows:
            pq.write_table(part, folder / f"{name}-{number}.parquet", row_group_size=int(rng.integers(1, 4)))


def write_mixed(folder: Path, series: Series, rng: np.random.Generator) -> None:
    """Each series in a format of its own, ids as categories or text, times in another zone."""
    writers = (write_long, write_nested, write_gluonts)
    for number, (name, values) in enumerate(series.items()):
        inner = folder / str(number)
        inner.mkdir()
        writers[int(rng.integers(0, 3))](inner, {name: values}, rng)
        for path in inner.iterdir():
            table = pq.read_table(path)
            if table.schema.field("item_id").type == pa.string() and rng.random() < 0.5:
                table = table.set_column(0, "item_id", table["item_id"].dictionary_encode())
            when = table.schema.get_field_index("timestamp")
            if when >= 0 and pa.types.is_timestamp(table.schema.types[when]):
                zoned = table["timestamp"].cast(pa.timestamp("ns", tz="Asia/Kathmandu"))
                table = table.set_column(when, "timestamp", zoned)
            pq.write_table(table, folder / f"{number}-{path.name}")


def as_series(names: list[str], seed: int) -> Series:
    rng = np.random.default_rng(seed)
    made = {}
    for name in names:
        values = rng.normal(size=(4, rng.integers(3, 40))).astype(np.float32)
        values[:, 1:][rng.random(values[:, 1:].shape) < 0.1] = np.nan
        made[name] = values
    return made


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text("abcä ", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 2**32 - 1),
    few_rows=st.sampled_from([0, 32]),
    at_once=st.sampled_from([7, 1 << 18]),
)
def test_the_format_does_not_matter(
    names: list[str], seed: int, few_rows: int, at_once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    series, rng, found = as_series(names, seed), np.random.default_rng(seed), []
    with pytest.MonkeyPatch.context() as patch:
        # So that small data, too, is read in parts and copied in either way.
        patch.setattr(flat, "_FEW_ROWS", few_rows)
        patch.setattr(flat, "ROWS_AT_ONCE", at_once)
        patch.setattr(reader, "_VALUES_AT_ONCE", at_once)
        for write in (write_long, write_nested, write_gluonts, write_mixed):
            folder = tmp_path_factory.mktemp("data")
            write(folder, series, rng)
            found.append(load_series(folder, ALL, 3))
            found.append(load_series(folder, ALL, 3, scratch=folder / "scratch", memory_bytes=0))
    first = found[0]
    assert first.ids == sorted(names)
    for number, name in enumerate(first.ids):
        part = slice(first.offsets[number], first.offsets[number + 1])
        np.testing.assert_array_equal(first.values[:, part], series[name])
        assert (
            first.times[part].tolist()
            == (START + np.arange(series[name].shape[1]) * HOUR).astype(int).tolist()
        )
    assert {one.fingerprint() for one in found} == {first.fingerprint()}
    assert {(one.gaps, one.spacing_seconds, one.missing, one.rows) for one in found} == {
        (0, 3600.0, first.missing, first.rows)
    }


def test_arrays_that_do_not_fit_lie_on_the_disk(tmp_path: Path) -> None:
    write_long(tmp_path, as_series(["a", "b"], 1), np.random.default_rng(1))
    in_memory = load_series(tmp_path, ALL, 1)
    on_disk = load_series(tmp_path, ALL, 1, scratch=tmp_path / "scratch", memory_bytes=100)
    assert not isinstance(in_memory.values, np.memmap)
    assert isinstance(on_disk.values, np.memmap)
    assert isinstance(on_disk.times, np.memmap)
    assert in_memory.fingerprint() == on_disk.fingerprint()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "lists of other lengths": (
        {"timestamp": [START], "freq": ["h"], "target": [[1.0, 2.0]], "p": [[1.0]]},
        r"row 0, column p: 1 values where target has 2",
    ),
    "no frequency": (
        {"timestamp": [START], "target": [[1.0, 2.0]], "p": [[1.0, 2.0]]},
        r"column timestamp: .* add a text column freq",
    ),
    "unknown frequency": (
        {"timestamp": [START], "freq": ["fortnight"], "target": [[1.0]], "p": [[1.0]]},
        r"row 0, column freq: 'fortnight' is no frequency",
    ),
    "times of another length": (
        {"timestamp": [[START]], "target": [[1.0, 2.0]], "p": [[1.0, 2.0]]},
        r"row 0, column timestamp: 1 values where target has 2",
    ),
    "a number for a list": (
        {"timestamp": [START], "freq": ["h"], "target": [[1.0]], "p": [1.0]},
        r"column p: double where a list of numbers is expected",
    ),
    "text": (
        {"timestamp": [START], "freq": ["h"], "target": [["x"]], "p": [[1.0]]},
        r"column target: list<element: string> where a number",
    ),
    "infinite": (
        {"timestamp": [START], "freq": ["h"], "target": [[float("inf")]], "p": [[1.0]]},
        r"row 0, column target: infinite",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str, tmp_path: Path) -> None:
    columns, says = MISTAKES[mistake]
    pq.write_table(pa.table({"item_id": ["a"], **columns}), tmp_path / "f.parquet")
    with pytest.raises(DataInvalid, match=says):
        load_series(tmp_path, Columns(past_covariates=("p",)), 1)


@pytest.mark.parametrize(
    ("start", "freq", "expected"),
    [
        ("2024-01-31T06", "15min", ["2024-01-31T06:15", "2024-01-31T06:30"]),
        ("2024-01-31T06", "2h", ["2024-01-31T08:00", "2024-01-31T10:00"]),
        ("2024-01-31T06", "D", ["2024-02-01T06:00", "2024-02-02T06:00"]),
        ("2024-01-31T06", "W-SUN", ["2024-02-07T06:00", "2024-02-14T06:00"]),
        ("2023-12-01", "MS", ["2024-01-01T00:00", "2024-02-01T00:00"]),
        ("2023-12-31T06", "ME", ["2024-01-31T06:00", "2024-02-29T06:00"]),
        ("2024-02-29", "M", ["2024-03-31T00:00", "2024-04-30T00:00"]),
        ("2024-01-30", "MS", ["2024-02-29T00:00", "2024-03-30T00:00"]),
        ("2023-11-15", "QS-JAN", ["2024-02-15T00:00", "2024-05-15T00:00"]),
        ("2024-02-29", "Y", ["2025-02-28T00:00", "2026-02-28T00:00"]),
    ],
)
def test_a_frequency_spreads_the_times(start: str, freq: str, expected: list[str], tmp_path: Path) -> None:
    row = {"start": [np.datetime64(start, "us")], "target": [[1.0, 2, 3]], "freq": [freq]}
    pq.write_table(pa.table(row), tmp_path / "f.parquet")
    found = load_series(tmp_path, Columns(), 1)
    assert found.ids == ["f-0"], "a series without a name is called by its file and row"
    times = found.times.astype("datetime64[us]").astype("datetime64[m]")
    assert [str(time) for time in times[1:]] == expected
    assert found.gaps == 0, "months are as long as they are"


@pytest.mark.parametrize("freq", ["0h", "B", "-1h", "", "h2", "1.5h", None])
def test_a_frequency_that_is_none_is_refused(freq: str | None, tmp_path: Path) -> None:
    row = {"start": np.array([START]), "target": [[1.0]], "freq": pa.array([freq], pa.string())}
    pq.write_table(pa.table(row), tmp_path / "f.parquet")
    with pytest.raises(DataInvalid, match=f"row 0, column freq: {freq!r} is no frequency; s, min, h"):
        load_series(tmp_path, Columns(), 1)


def test_a_column_with_the_name_of_another_format_does_not_confuse(tmp_path: Path) -> None:
    table = {"item_id": ["a"], "timestamp": [START], "target": [2.0], "start": [1], "freq": ["D"]}
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    assert load_series(tmp_path, Columns(), 1).values.tolist() == [[2.0]]


def test_columns_that_nobody_names_are_not_read(tmp_path: Path) -> None:
    table = {
        "item_id": ["a"],
        "timestamp": np.array([START]),
        "target": [1.0],
        "note": ["text, not a number"],
    }
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    assert load_series(tmp_path, Columns(), 1).values.shape == (1, 1)


def test_yes_and_no_are_numbers_for_a_covariate(tmp_path: Path) -> None:
    table = {
        "item_id": ["a"] * 2,
        "timestamp": START + np.arange(2) * HOUR,
        "target": [1.0, 2.0],
        "k": [True, False],
    }
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    assert load_series(tmp_path, Columns(known_covariates=("k",)), 1).values[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "names", [{"targets": ()}, {"targets": ("a", "a")}, {"known_covariates": ("item_id",)}]
)
def test_columns_with_two_parts_to_play_are_refused(names: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"named twice|no target"):
        Columns(**names)  # type: ignore[arg-type]
