"""What is wrong with rows, also with rows of different files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronos_ec2.data.steps import usual_steps
from chronos_ec2.workstation.dataset import SHOWN_PER_KIND, DatasetReport, check_dataset

from .conftest import START, hours

Write = Callable[..., Path]


def check(folder: Path, min_length: int = 10) -> DatasetReport:
    return check_dataset(folder, min_length=min_length)


def places(report: DatasetReport) -> list[tuple[str, str, str, int | None]]:
    return [(finding.severity, finding.kind, finding.file, finding.row) for finding in report.findings]


def test_a_time_twice_in_one_file_names_the_later_row_and_the_earlier(folder: Path, write: Write) -> None:
    times = hours(20)
    times[13] = times[12]
    write("a.parquet", ["a"] * 20, times, np.arange(20.0))
    report = check(folder)
    assert ("error", "duplicate", "a.parquet", 13) in places(report)
    assert "row 12 of 'a.parquet'" in report.errors[0].message
    assert "2024-01-01T12:00" in report.errors[0].message


def test_a_time_twice_in_two_files_names_both(folder: Path, write: Write) -> None:
    write("a.parquet", ["x"] * 20, hours(20), np.arange(20.0))
    write("b.parquet", ["y"] * 15 + ["x"], np.append(hours(15), hours(20)[7]), np.arange(16.0))
    report = check(folder)
    assert places(report) == [("error", "duplicate", "b.parquet", 15)]
    assert "row 7 of 'a.parquet'" in report.errors[0].message


def test_the_same_time_in_two_zones_or_units_is_a_duplicate(folder: Path, write: Write) -> None:
    write("a.parquet", ["x"] * 20, hours(20), np.arange(20.0))
    zoned = pa.array(hours(20)).cast(pa.timestamp("ns", tz="Asia/Tokyo"))
    write("b.parquet", ["x"] * 20, zoned, np.arange(20.0))
    assert check(folder).errors[0].kind == "duplicate"


def test_the_same_times_in_different_series_are_fine(folder: Path, write: Write) -> None:
    write("a.parquet", ["x"] * 20 + ["y"] * 20, np.tile(hours(20), 2), np.arange(40.0))
    write("b.parquet", ["z"] * 20, hours(20), np.arange(20.0))
    assert check(folder).findings == ()
    assert check(folder).series == 3


def test_a_series_that_goes_on_in_another_file_is_one_series_without_a_gap(
    folder: Path, write: Write
) -> None:
    write("b.parquet", ["x"] * 20, hours(40)[:20], np.arange(20.0))
    write("a.parquet", ["x"] * 20, hours(40)[20:], np.arange(20.0))
    report = check(folder, min_length=40)
    assert report.findings == ()
    assert report.series == 1


def test_a_gap_is_measured_by_the_series_own_step(folder: Path, write: Write) -> None:
    daily = START + np.arange(20) * np.timedelta64(1, "D")
    write(
        "a.parquet",
        ["hourly"] * 19 + ["daily"] * 20,
        np.concatenate([np.delete(hours(20), 5), daily]),
        np.ones(39),
    )
    report = check(folder)
    assert places(report) == [("warning", "gap", "a.parquet", 5)]
    message = report.findings[0].message
    assert "'hourly' takes 2 h to 2024-01-01T06:00 where 1 h is usual (1 missing)" in message


def test_an_uneven_step_is_a_gap_too(folder: Path, write: Write) -> None:
    times = hours(20)
    times[9] += np.timedelta64(30, "m")
    write("a.parquet", ["a"] * 20, times, np.ones(20))
    assert [place[3] for place in places(check(folder))] == [9, 10]


@pytest.mark.parametrize(
    ("unit", "count"), [("M", 1), ("M", 3), ("Y", 1)], ids=["months", "quarters", "years"]
)
def test_calendar_months_quarters_and_years_have_no_gaps(
    folder: Path, write: Write, unit: str, count: int
) -> None:
    times = np.arange(24).astype(f"timedelta64[{unit}]") * count + np.datetime64("2000", unit)
    write("a.parquet", ["a"] * 24, times.astype("datetime64[us]"), np.ones(24))
    assert check(folder).findings == ()


def test_a_missing_month_is_a_gap(folder: Path, write: Write) -> None:
    times = np.delete(np.arange("2000-01", "2002-01", dtype="datetime64[M]"), 7).astype("datetime64[us]")
    write("a.parquet", ["a"] * 23, times, np.ones(23))
    assert places(check(folder)) == [("warning", "gap", "a.parquet", 7)]


def test_missing_targets_are_counted_with_the_first_rows(folder: Path, write: Write) -> None:
    targets = pa.array([1.0, None, float("nan")] + [1.0] * 17)
    write("a.parquet", ["a"] * 20, hours(20), targets)
    report = check(folder)
    assert places(report) == [("warning", "missing-target", "a.parquet", 1)]
    assert "2 of 20" in report.findings[0].message
    assert "rows 1, 2" in report.findings[0].message


def test_infinite_and_too_large_targets_are_errors(folder: Path, write: Write) -> None:
    write("a.parquet", ["a"] * 20, hours(20), [1.0, float("-inf"), 1e39] + [1.0] * 17)
    assert places(check(folder)) == [
        ("error", "infinite", "a.parquet", 1),
        ("error", "infinite", "a.parquet", 2),
    ]


def test_null_ids_and_times_are_errors_and_the_other_rows_keep_their_numbers(
    folder: Path, write: Write
) -> None:
    ids = pa.array([None] + ["a"] * 20)
    times = pa.array([*hours(20).tolist(), None])
    targets = np.arange(21.0)
    targets[10] = np.inf
    write("a.parquet", ids, times, targets)
    assert places(check(folder)) == [
        ("error", "infinite", "a.parquet", 10),
        ("error", "null", "a.parquet", 0),
        ("error", "null", "a.parquet", 20),
    ]


def test_a_duplicate_behind_null_rows_keeps_its_row_number(folder: Path, write: Write) -> None:
    ids = pa.array([None, None] + ["a"] * 20 + ["a"])
    write("a.parquet", ids, np.concatenate([hours(2), hours(20), hours(8)[7:]]), np.ones(23))
    assert ("error", "duplicate", "a.parquet", 22) in places(check(folder))
    assert "2024-01-01T07:00 already (row 9 of" in check(folder).errors[0].message


def test_a_series_that_starts_when_another_ends_is_no_duplicate_and_no_gap(
    folder: Path, write: Write
) -> None:
    times = np.concatenate([hours(20)[:10], hours(20)[9:19], hours(40)[30:]])
    write("a.parquet", ["a"] * 10 + ["b"] * 10 + ["c"] * 10, times, np.ones(30))
    assert check(folder).findings == ()


def test_a_null_in_a_categorical_id_is_found(folder: Path, write: Write) -> None:
    ids = pa.array(["a"] * 19 + [None]).dictionary_encode()
    write("a.parquet", ids, hours(20), np.ones(20))
    assert ("error", "null", "a.parquet", 19) in places(check(folder))


def test_only_null_ids_is_reported_and_not_a_crash(folder: Path, write: Write) -> None:
    write("a.parquet", pa.nulls(3, pa.string()), hours(3), np.ones(3))
    assert {finding.kind for finding in check(folder).errors} == {"null", "no-series"}


def test_rows_out_of_order_are_a_warning_and_make_no_gap(folder: Path, write: Write) -> None:
    order = np.array([*range(10), 11, 10, *range(12, 20)])
    write("a.parquet", ["a"] * 20, hours(20)[order], np.ones(20))
    assert places(check(folder)) == [("warning", "unsorted", "a.parquet", 11)]


def test_series_woven_into_each_other_are_in_order(folder: Path, write: Write) -> None:
    write("a.parquet", ["a", "b"] * 20, np.repeat(hours(20), 2), np.ones(40))
    assert check(folder).findings == ()


def test_a_woven_series_out_of_order_is_found(folder: Path, write: Write) -> None:
    times = np.repeat(hours(20), 2)
    times[[7, 9]] = times[[9, 7]]
    write("a.parquet", ["a", "b"] * 20, times, np.ones(40))
    assert places(check(folder)) == [("warning", "unsorted", "a.parquet", 9)]


def test_a_short_or_empty_series_is_a_warning_when_another_is_usable(
    folder: Path, good: Path, write: Write
) -> None:
    write(
        "a.parquet", ["s"] * 9 + ["n"] * 20, np.append(hours(9), hours(20)), [1.0] * 9 + [float("nan")] * 20
    )
    report = check(folder)
    assert report.errors == []
    texts = [finding.message for finding in report.findings if finding.kind == "short-series"]
    assert any("'s' has 9 rows, 10 needed" in text for text in texts)
    assert any("'n' has no known target" in text for text in texts)


def test_no_usable_series_is_an_error(folder: Path, good: Path) -> None:
    report = check(folder, min_length=31)
    assert [finding.kind for finding in report.errors] == ["no-series"]
    assert "30 rows, 31 are needed" in report.errors[0].message


def test_many_findings_of_a_kind_are_cut_off_and_counted_by_file(folder: Path, write: Write) -> None:
    for name in ("a", "b"):
        write(f"{name}.parquet", [name] * 100, hours(100), [float("inf")] * 50 + [1.0] * 50)
    report = check(folder)
    for name in ("a.parquet", "b.parquet"):
        here = [finding for finding in report.findings if finding.file == name]
        assert [finding.row for finding in here] == [0, 1, 2, 3, 4, None]
        assert here[-1].message == f"and {50 - SHOWN_PER_KIND} more like these"


def test_a_series_name_cannot_write_to_the_terminal(folder: Path, write: Write) -> None:
    write("a.parquet", ["\x1b[31m" + "x" * 500] * 9, hours(9), np.ones(9))
    for finding in check(folder).findings:
        assert str(finding).isprintable()
        assert len(str(finding)) < 400


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=40))
def test_the_usual_step_is_the_most_common_and_of_equals_the_shortest(pairs: list[tuple[int, int]]) -> None:
    pairs.sort(key=lambda pair: pair[0])
    codes, steps = (np.array(column) for column in zip(*pairs, strict=True))
    usual = usual_steps(codes, steps, 4)
    for code in range(4):
        mine = sorted(step for owner, step in pairs if owner == code)
        expected = max(sorted(set(mine)), key=mine.count) if mine else 0
        assert usual[code] == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_and_files_changes_no_error(
    tmp_path_factory: pytest.TempPathFactory, random
) -> None:  # type: ignore[no-untyped-def]
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("shuffled")
    rows = [(name, time) for name in "abc" for time in hours(20).tolist()] + [("b", hours(20)[4].item())]
    random.shuffle(rows)
    cut = random.randrange(1, len(rows))
    for number, part in enumerate((rows[:cut], rows[cut:])):
        ids, times = zip(*part, strict=True)
        table = pa.table({"item_id": list(ids), "timestamp": list(times), "target": [1.0] * len(part)})
        pq.write_table(table, folder / f"{number}.parquet")
    errors = check(folder).errors
    assert [finding.kind for finding in errors] == ["duplicate"]
    assert "'b' has 2024-01-01T04:00 already" in errors[0].message
