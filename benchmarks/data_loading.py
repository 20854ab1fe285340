"""How long ten million rows take until they are ready, beside pandas, in one run.

    python benchmarks/data_loading.py [--rounds N] [--report FILE.md]

A thousand hourly series of ten thousand values in twenty files: once in order, each file with its share of
the series, and once shuffled, so that every file has rows of every series in any order. pandas does it
twice. Once it finds out what the loader does, which refuses a time that a series has twice, counts gaps and
missing values and takes a digest. Once it does the least that gives arrays, which lets wrong data through:
read, sort by series and time, cut. All in one process, in turns; a ratio is of the medians. Exits 1 when
pandas with the same checks takes less than 5 times as long.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from result_page import RESULTS, circumstances, table, write_page

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series

LEAST_RATIO = 5.0
SERIES, LENGTH, FILES = 1000, 10_000, 20


def write(folder: Path, order: NDArray[np.int64]) -> None:
    """Write the files, each with its share of the rows; `order` is that of the rows in all of them."""
    rng = np.random.default_rng(0)
    times = np.datetime64("2020-01-01", "us") + np.arange(LENGTH) * np.timedelta64(1, "h")
    names = np.array([f"series-{number:04d}" for number in range(SERIES)])
    values = rng.normal(size=SERIES * LENGTH)
    folder.mkdir()
    for number, rows in enumerate(np.array_split(order, FILES)):
        series, place = np.divmod(rows, LENGTH)
        table = {"item_id": names[series], "timestamp": times[place], "target": values[rows]}
        pq.write_table(pa.table(table), folder / f"{number:02d}.parquet")


def ours(folder: Path) -> int:
    """Our loader, fingerprint included."""
    found = load_series(folder, Columns(), 640)
    found.fingerprint()
    return int(found.values.shape[1])


def by_pandas(folder: Path) -> int:
    """Read, sort, cut."""
    return sum(map(len, _cut(_sorted(folder))))


def checked_by_pandas(folder: Path) -> int:
    """The same with what the loader finds out: times that are there twice, gaps, missing values, a digest."""
    frame = _sorted(folder)
    assert not frame.duplicated(["item_id", "timestamp"]).any()
    steps = frame.groupby("item_id", sort=False)["timestamp"].diff()
    usual = steps.groupby(frame["item_id"], sort=False).median()
    gaps = (steps > frame["item_id"].map(usual)).sum()
    missing = frame["target"].isna().groupby(frame["item_id"], sort=False).sum()
    assert gaps == 0 and missing.sum() == 0
    arrays = _cut(frame)
    digest = hashlib.sha256(frame["timestamp"].to_numpy().tobytes())
    for array in arrays:
        digest.update(array.tobytes())
    return sum(map(len, arrays))


def _sorted(folder: Path) -> pd.DataFrame:
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    return frame.sort_values(["item_id", "timestamp"], ignore_index=True)


def _cut(frame: pd.DataFrame) -> list[NDArray[np.float32]]:
    return [part["target"].to_numpy(np.float32) for _, part in frame.groupby("item_id", sort=False)]


WAYS = {"ours": ours, "pandas, the same checks": checked_by_pandas, "pandas, none": by_pandas}


def measure(folder: Path, rounds: int) -> list[float]:
    """Seconds that each way takes, medians."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, load in WAYS.items():
            began = time.perf_counter()
            assert load(folder) == SERIES * LENGTH
            seconds[way].append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds.values()]


def main() -> int:
    """Measure, print a table, and say whether we are fast enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, default=RESULTS / "data_loading.md")
    given = parser.parse_args()
    rows = np.arange(SERIES * LENGTH)
    orders = {"in order": rows, "shuffled": np.random.default_rng(1).permutation(rows)}
    lines, ratios = [], []
    with tempfile.TemporaryDirectory() as name:
        for case, order in orders.items():
            write(folder := Path(name, case), order)
            mine, checked, bare = measure(folder, given.rounds)
            ratios.append(checked / mine)
            cells = [f"{taken:.1f} s" for taken in (mine, checked, bare)]
            lines.append([case, *cells, f"{checked / mine:.1f} x", f"{bare / mine:.1f} x"])
            print(lines[-1], flush=True)
    write_page(
        given.report,
        "Data loading",
        f"{circumstances('python benchmarks/data_loading.py')}, medians of {given.rounds} rounds. "
        f"{len(rows) / 1e6:.0f} million rows, {SERIES} series, {FILES} files. Ours refuses times that are "
        "there twice, counts gaps and missing values and takes a digest, and so does the first pandas; "
        "the second only reads, sorts and cuts.",
        table(["rows", *WAYS, "sooner", "sooner than without checks"], lines),
    )
    return 0 if min(ratios) >= LEAST_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())
