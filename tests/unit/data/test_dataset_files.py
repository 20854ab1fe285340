"""What is wrong with a file as such: its name, its format, its columns, their types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import DataInvalid
from chronos_ec2.workstation.dataset import DatasetReport, Finding, check_dataset

from .conftest import hours

Write = Callable[..., Path]


def check(folder: Path, min_length: int = 10) -> DatasetReport:
    return check_dataset(folder, min_length=min_length)


def only(report: DatasetReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def test_good_data_has_no_finding_and_its_facts_are_those_of_the_manifest(folder: Path, good: Path) -> None:
    report = check(folder)
    report.raise_if_invalid()
    assert report.findings == ()
    body = good.read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    assert report.manifest() == {
        "files": [{"name": "good.parquet", "bytes": len(body), "sha256": digest, "rows": 30, "series": 1}],
        "rows": 30,
        "series": 1,
    }


def test_a_missing_folder_is_one_error(tmp_path: Path) -> None:
    finding = only(check(tmp_path / "nowhere"))
    assert (finding.severity, finding.kind) == ("error", "no-folder")
    assert "nowhere" in finding.message


def test_a_file_instead_of_a_folder_is_one_error(good: Path) -> None:
    assert only(check(good)).kind == "no-folder"


def test_a_folder_without_parquet_says_what_it_has(folder: Path) -> None:
    (folder / "data.csv").write_text("a,b\n")
    report = check(folder)
    assert [finding.kind for finding in report.errors] == ["no-files"]
    assert "data.csv" in report.errors[0].message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "0 bytes"),
        (b"item_id,timestamp,target\n", "not Parquet"),
        (b"PAR1", "cut off"),
        (b"PAR1" + b"x" * 100, "cut off"),
        (b"PARE" + b"x" * 100 + b"PARE", "encrypted"),
    ],
    ids=["empty", "csv", "magic only", "no end", "encrypted"],
)
def test_a_file_that_is_not_parquet_is_named(folder: Path, good: Path, body: bytes, says: str) -> None:
    (folder / "bad.parquet").write_bytes(body)
    finding = only(check(folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "not-parquet", "bad.parquet")
    assert says in finding.message


def test_parquet_cut_in_the_middle_is_named(folder: Path, good: Path) -> None:
    (folder / "half.parquet").write_bytes(good.read_bytes()[:-200])
    assert only(check(folder)).file == "half.parquet"


def test_parquet_with_a_spoilt_footer_or_spoilt_pages_is_named(folder: Path, good: Path) -> None:
    body = bytearray(good.read_bytes())
    (folder / "footer.parquet").write_bytes(body[:-60] + bytes(50) + body[-10:])
    body[4:200] = bytes(196)
    (folder / "pages.parquet").write_bytes(body)
    report = check(folder)
    assert [(finding.kind, finding.file) for finding in report.errors] == [
        ("damaged", "footer.parquet"),
        ("damaged", "pages.parquet"),
    ]


def test_a_file_without_rows_is_an_error(folder: Path, good: Path, write: Write) -> None:
    write(
        "none.parquet",
        pa.array([], pa.string()),
        pa.array([], pa.timestamp("us")),
        pa.array([], pa.float64()),
    )
    assert (only(check(folder)).kind, only(check(folder)).file) == ("empty", "none.parquet")


def test_each_missing_column_is_named_with_those_there_are(folder: Path, good: Path, write: Write) -> None:
    write("bad.parquet", None, hours(3), None, id=["a"] * 3)
    errors = check(folder).errors
    assert [(finding.kind, finding.column) for finding in errors] == [
        ("missing-column", "item_id"),
        ("missing-column", "target"),
    ]
    assert "timestamp, id" in errors[0].message


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("item_id", pa.array([1.0] * 20)),
        ("item_id", pa.array([True] * 20)),
        ("item_id", pa.array([b"a"] * 20)),
        ("timestamp", pa.array(["2024-01-01"] * 20)),
        ("timestamp", pa.array(range(20))),
        ("target", pa.array(["1"] * 20)),
        ("target", pa.array([True] * 20)),
        ("target", pa.nulls(20)),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else value,
)
def test_a_wrong_type_is_named(folder: Path, good: Path, write: Write, column: str, values: Any) -> None:
    columns: dict[str, Any] = {"item_id": ["a"] * 20, "timestamp": hours(20), "target": np.arange(20.0)}
    columns[column] = values
    write("bad.parquet", columns["item_id"], columns["timestamp"], columns["target"])
    finding = only(check(folder))
    assert (finding.severity, finding.kind, finding.file, finding.column) == (
        "error",
        "wrong-type",
        "bad.parquet",
        column,
    )
    assert str(values.type).split("<")[0] in finding.message


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7] * 20, pa.int64()),
        pa.array(["a"] * 20, pa.large_string()),
        pa.array(["a"] * 20).dictionary_encode(),
        pa.array([7] * 20, pa.uint8()).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
@pytest.mark.parametrize(
    "times",
    [
        pa.array(hours(20)).cast(pa.timestamp("ns")),
        pa.array(hours(20)).cast(pa.timestamp("s", tz="UTC")),
        pa.array(hours(20)).cast(pa.timestamp("us", tz="America/New_York")),
        pa.array(np.datetime64("2024-01-01") + np.arange(20), pa.date32()),
    ],
    ids=lambda array: str(array.type),
)
@pytest.mark.parametrize(
    "targets",
    [
        pa.array(range(20), pa.int8()),
        pa.array(range(20)).cast(pa.decimal128(30, 2)),
        pa.array([1.5] * 20, pa.float32()),
    ],
    ids=lambda array: str(array.type),
)
def test_every_sensible_type_passes(folder: Path, write: Write, ids: Any, times: Any, targets: Any) -> None:
    write("good.parquet", ids, times, targets)
    assert check(folder).findings == ()


def test_extra_columns_and_other_files_are_only_warned_of(folder: Path, write: Write) -> None:
    write("a.parquet", ["a"] * 20, hours(20), np.arange(20.0), price=[1] * 20)
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.parquet").write_text("no")
    report = check(folder)
    assert report.errors == []
    assert [(finding.kind, finding.file) for finding in report.warnings] == [
        ("extra-column", "a.parquet"),
        ("left-out", "notes.txt"),
    ]
    assert "price" in report.warnings[0].message


def test_links_spaces_and_other_alphabets_in_names_are_fine(folder: Path, good: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.parquet"
    good.rename(moved)
    (folder / "a b & ünï ☂.parquet").symlink_to(moved)
    report = check(folder)
    assert report.findings == ()
    assert report.files[0].bytes == moved.stat().st_size


@pytest.mark.parametrize("name", ["a\nb.parquet", "a\x1b[31m.parquet", "\udcff.parquet"], ids=ascii)
def test_a_name_that_no_key_can_hold_is_refused_and_shown_escaped(
    folder: Path, good: Path, name: str
) -> None:
    good.rename(folder / name)
    finding = only(check(folder))
    assert (finding.severity, finding.kind) == ("error", "bad-name")
    assert str(finding).isprintable()


def test_a_dead_link_and_a_folder_named_like_a_file_are_errors(folder: Path, good: Path) -> None:
    (folder / "gone.parquet").symlink_to(folder / "nothing")
    (folder / "spark.parquet").mkdir()
    report = check(folder)
    assert [(finding.kind, finding.file) for finding in report.findings] == [
        ("not-a-file", "gone.parquet"),
        ("not-a-file", "spark.parquet"),
    ]
    assert "leads nowhere" in report.findings[0].message
    assert "a folder" in report.findings[1].message


def test_the_refusal_lists_every_error_of_every_file(folder: Path, write: Write) -> None:
    (folder / "a.parquet").write_bytes(b"")
    write("b.parquet", ["b"] * 20, hours(20), [float("inf")] + [1.0] * 19)
    write("c.parquet", ["c", None], hours(2), [1.0, 2.0])
    with pytest.raises(DataInvalid) as caught:
        check(folder).raise_if_invalid()
    text = str(caught.value)
    assert "a.parquet: the file is empty" in text
    assert "b.parquet, row 0, column target: infinite" in text
    assert "c.parquet, row 1, column item_id: null" in text
    assert caught.value.exit_code == 19


def test_a_file_written_in_many_row_groups_keeps_its_row_numbers(folder: Path) -> None:
    targets = np.arange(40.0)
    targets[33] = np.inf
    table = pa.table({"item_id": ["a"] * 40, "timestamp": hours(40), "target": targets})
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    assert only(check(folder)).row == 33


def nested(folder: Path, **changes: Any) -> None:
    table = {
        "series": ["a", "b"],
        "timestamp": np.array([hours(1)[0]] * 2),
        "freq": ["h", "h"],
        "target": [[float(value) for value in range(30)], [1.0, None] + [2.0] * 20],
        **changes,
    }
    pq.write_table(pa.table(table), folder / "nested.parquet")


def test_rows_that_are_a_series_each_are_checked_as_the_trainer_reads_them(folder: Path) -> None:
    nested(folder)
    report = check_dataset(folder, 10, Columns(item_id="series"))
    report.raise_if_invalid()
    assert (report.rows, report.series) == (52, 2)
    assert only(report).kind == "missing-target"


def test_a_fault_in_a_row_that_is_a_series_is_an_error(folder: Path) -> None:
    nested(folder, freq=["h", "fortnight"])
    report = check_dataset(folder, 10, Columns(item_id="series"))
    (found,) = report.errors
    assert (found.kind, found.row, found.column) == ("no-frequency", 1, "freq")
    assert "'fortnight' is no frequency" in found.message
    assert report.rows == 30, "the other row is read all the same"


def test_every_fault_of_rows_that_are_a_series_each_is_named_at_once(folder: Path) -> None:
    start = hours(1)[0]
    table = {
        "start": pa.array([start, None, start, start, start]),
        "freq": ["h", "h", None, "h", "h"],
        "target": [[1.0] * 30, [1.0], [1.0], None, [2.0, float("-inf")]],
        "feat_dynamic_real": [[[1.0] * 29], [[1.0]], [[1.0]], [[1.0]], [[1.0, 1.0], [1.0, 1.0]]],
    }
    pq.write_table(pa.table(table), folder / "f.parquet")
    found = check_dataset(folder, 1, Columns(known_covariates=("price",))).errors
    assert [(item.kind, item.row, item.column) for item in found] == [
        ("no-series", None, None),
        ("no-frequency", 2, "freq"),
        ("null", 1, "start"),
        ("null", 3, "target"),
        ("shape", 0, "feat_dynamic_real"),
        ("shape", 4, "feat_dynamic_real"),
    ]
    assert "29 values where target has 30" in found[4].message
    assert "2 lists where 1 columns are named" in found[5].message


def test_a_list_of_targets_without_a_frequency_says_what_to_add(folder: Path, write: Write) -> None:
    write("bad.parquet", ["a"], hours(1), pa.array([[1.0, 2.0]]))
    finding = only(check(folder))
    assert (finding.kind, finding.column) == ("no-frequency", "timestamp")
    assert "add a text column freq" in finding.message


def test_missing_covariates_are_told_as_such(folder: Path, write: Write) -> None:
    write("a.parquet", ["a"] * 20, hours(20), np.arange(20.0), price=pa.array([None, 1.0] * 10))
    finding = only(check_dataset(folder, 10, Columns(known_covariates=("price",))))
    assert (finding.severity, finding.kind, finding.column) == ("warning", "missing-covariate", "price")
    assert "10 of 20 values are missing (null or NaN; rows 0, 2, 4, 6, 8, ...)" in finding.message


def test_other_columns_are_checked_where_the_settings_name_them(folder: Path) -> None:
    times = hours(30)
    table = {"sku": ["a"] * 30, "day": times, "sold": np.arange(30.0), "price": ["cheap"] * 30}
    pq.write_table(pa.table(table), folder / "f.parquet")
    columns = Columns(item_id="sku", timestamp="day", targets=("sold",), known_covariates=("price",))
    report = check_dataset(folder, 10, columns)
    assert {(finding.kind, finding.column) for finding in report.findings if finding.severity == "error"} >= {
        ("wrong-type", "price")
    }
