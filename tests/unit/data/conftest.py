from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-01-01T00", "us")


def hours(count: int, start: np.datetime64 = START) -> np.ndarray[Any, Any]:
    """`count` hourly times."""
    return start + np.arange(count) * HOUR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my data"
    path.mkdir()
    return path


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    """Write one file of (item_id, timestamp, target); any column may be given as an Arrow array."""

    def write(name: str, ids: Any, times: Any, targets: Any, **extra: Sequence[Any]) -> Path:
        columns = {"item_id": ids, "timestamp": times, "target": targets, **extra}
        pq.write_table(
            pa.table({key: value for key, value in columns.items() if value is not None}), folder / name
        )
        return folder / name

    return write


@pytest.fixture
def good(write: Callable[..., Path]) -> Path:
    """A file that nothing is wrong with: one series of 30 hours."""
    return write("good.parquet", ["good"] * 30, hours(30), np.arange(30.0))
