"""Data that do not fit into memory lie on the disk, and what the memory holds stays small."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronos_ec2.data import flat, reader
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.problems import Refusal
from chronos_ec2.data.series import load_series
from chronos_ec2.errors import ChronosError, DataInvalid

from .conftest import hours

PROGRAM = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from chronos_ec2.data import flat, reader
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.problems import Refusal
from chronos_ec2.data.series import load_series

# Few threads, and small parts: what they take of the memory does not grow with the data.
pa.set_cpu_count(1), pa.set_io_thread_count(1)
reader._VALUES_AT_ONCE = flat.ROWS_AT_ONCE = 1 << 14
small, large, budget, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
columns = Columns(past_covariates=("a", "b", "c"))
load_series(small, columns, 1)
status = Path("/proc/self/status").read_text().split("VmData:")[1]
taken = int(status.split()[0]) * 1024
# Private memory, touched or not: pages of files do not count.
resource.setrlimit(resource.RLIMIT_DATA, (taken + limit, taken + limit))
try:
    found = load_series(large, columns, 1, scratch=large / "scratch", memory_bytes=budget)
except MemoryError:
    sys.exit("no memory")
print(found.fingerprint(), type(found.values).__name__)
"""


def write_rows(folder: Path, series: int, length: int, files: int) -> Path:
    """Files that each hold a part of every series, the rows of all woven into each other."""
    folder.mkdir()
    ids = pa.array([f"s{number}" for number in range(series)])
    for number, times in enumerate(np.array_split(hours(length), files)):
        codes = np.tile(np.arange(series, dtype=np.int32), len(times))
        numbers = {name: (codes % 5).astype(np.float32) for name in ("target", "a", "b", "c")}
        table = {
            "item_id": pa.DictionaryArray.from_arrays(codes, ids),
            "timestamp": np.repeat(times, series),
            **numbers,
        }
        pq.write_table(pa.table(table), folder / f"{number}.parquet", row_group_size=100_000)
    return folder


def run(small: Path, large: Path, budget: int, limit: int) -> subprocess.CompletedProcess[str]:
    frugal = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", PROGRAM, str(small), str(large), str(budget), str(limit)]
    return subprocess.run(argv, env=os.environ | frugal, capture_output=True, text=True)


def test_a_process_that_may_not_hold_the_data_loads_them_all_the_same(tmp_path: Path) -> None:
    small = write_rows(tmp_path / "small", 2, 10, 1)
    large = write_rows(tmp_path / "large", 200, 10_000, 4)
    arrays = 2_000_000 * (8 + 4 * 4)
    on_disk = run(small, large, budget=arrays // 2, limit=arrays // 2)
    assert on_disk.returncode == 0, on_disk.stderr
    in_memory = run(small, large, budget=2 * arrays, limit=arrays // 2)
    assert in_memory.stderr.strip() == "no memory", "the limit is one that memory would not do under"
    enough = run(small, large, budget=2 * arrays, limit=3 * arrays)
    assert enough.stdout.split()[1] == "ndarray", enough.stderr
    assert on_disk.stdout.split() == [enough.stdout.split()[0], "memmap"]


def test_the_disk_is_used_only_for_what_does_not_fit(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "data", 2, 10, 1)
    columns, needed = Columns(), 2 * 10 * (8 + 4)
    for scratch, memory_bytes, on_disk in (
        (tmp_path / "a", needed, False),
        (tmp_path / "b", needed - 1, True),
        (None, 0, False),
        (tmp_path / "c", None, False),
    ):
        found = load_series(folder, columns, 1, scratch=scratch, memory_bytes=memory_bytes)
        assert [isinstance(array, np.memmap) for array in (found.times, found.values)] == [on_disk] * 2


def test_the_processes_of_a_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "available_memory", lambda: 1600)
    for processes, on_disk in (("1", False), ("4", False), ("5", True)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        made = flat.allocator(200, tmp_path / processes, None)("values", (25,), np.float64)
        assert isinstance(made, np.memmap) is on_disk


def test_series_dropped_from_arrays_on_the_disk_leave_no_hole(tmp_path: Path) -> None:
    nothing = float("nan")
    table = {
        "item_id": ["a"] * 3 + ["b"] * 3 + ["c"] * 3,
        "timestamp": np.tile(hours(3), 3),
        "target": [1.0, 2, 3, nothing, nothing, nothing, 7, 8, 9],
    }
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    found = load_series(tmp_path, Columns(), 3, scratch=tmp_path / "scratch", memory_bytes=0)
    assert (found.ids, found.offsets.tolist(), found.dropped_short) == (["a", "c"], [0, 3, 6], 1)
    assert found.values.tolist() == [[1, 2, 3, 7, 8, 9]]
    assert found.fingerprint() == load_series(tmp_path, Columns(), 3).fingerprint()


def test_a_full_disk_is_said_and_not_found_out_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_rows(tmp_path / "data", 2, 10, 1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ChronosError, match=r"no room for them: times\.npy needs .* \(No space left"):
        load_series(folder, Columns(), 1, scratch=tmp_path / "scratch", memory_bytes=0)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("rows", [9, 11], ids=["shorter", "longer"])
def test_a_file_that_changes_between_the_two_readings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    folder = write_rows(tmp_path / "data", 2, 10, 1)
    real = reader.ParquetSource.blocks

    def blocks(source: reader.ParquetSource) -> Any:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        write_rows(folder, 2, rows, 1)
        return real(source)

    monkeypatch.setattr(reader.ParquetSource, "blocks", blocks)
    with pytest.raises(DataInvalid, match="a file changed while it was read"):
        load_series(folder, Columns(), 1)


def test_a_long_list_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"start": [hours(1)[0]] * 50, "target": [list(range(100))] * 50, "freq": ["h"] * 50}
    pq.write_table(pa.table(rows), tmp_path / "f.parquet")
    monkeypatch.setattr(reader, "_VALUES_AT_ONCE", 1000)
    blocks = reader.ParquetSource(tmp_path / "f.parquet", Columns(), Refusal()).blocks()
    sizes = [len(block.codes) for block in blocks]
    assert sizes == [1000] * 5


def test_runs_hold_whole_series_and_all_of_them() -> None:
    offsets = np.array([0, 3, 4, 14, 15, 16])
    assert list(flat.runs_of_series(offsets, 4)) == [(0, 2), (2, 3), (3, 5)]
    assert list(flat.runs_of_series(offsets, 100)) == [(0, 5)]
    assert list(flat.runs_of_series(np.array([0]), 4)) == []
