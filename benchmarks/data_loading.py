"""How soon ten million rows are ready for training: our loader beside pandas.

    python benchmarks/data_loading.py [--rounds N] [--report FILE.md]

A thousand hourly series of ten thousand values in twenty files: once in order, each file with its share of
the series, and once shuffled, so that every file has rows of every series in any order. pandas reads the
files, sorts by series and time and cuts each series out as an array, which is what the library's own data
frame path begins with. Both in one process, in turns; a ratio is of the medians. Exits 1 when one is below 5.
"""

from __future__ import annotations

import argparse
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
    return found.values.shape[1]


def by_pandas(folder: Path) -> int:
    """Read, sort, cut."""
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    frame = frame.sort_values(["item_id", "timestamp"])
    arrays = [part["target"].to_numpy(np.float32) for _, part in frame.groupby("item_id", sort=False)]
    return sum(map(len, arrays))


def measure(folder: Path, rounds: int) -> tuple[float, float]:
    """Seconds that ours and pandas take, medians."""
    seconds: dict[str, list[float]] = {"ours": [], "pandas": []}
    for _ in range(rounds):
        for who, load in (("ours", ours), ("pandas", by_pandas)):
            began = time.perf_counter()
            assert load(folder) == SERIES * LENGTH
            seconds[who].append(time.perf_counter() - began)
    return statistics.median(seconds["ours"]), statistics.median(seconds["pandas"])


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
            mine, other = measure(folder, given.rounds)
            ratios.append(other / mine)
            lines.append([case, f"{mine:.1f} s", f"{other:.1f} s", f"{other / mine:.1f} x"])
            print(lines[-1], flush=True)
    write_page(
        given.report,
        "Data loading",
        f"{circumstances('python benchmarks/data_loading.py')}, medians of {given.rounds} rounds. "
        f"{len(rows) / 1e6:.0f} million rows, {SERIES} series, {FILES} files. Ours checks for duplicates, "
        "counts gaps and takes the digest as well.",
        table(["rows", "ours", "pandas", "sooner"], lines),
    )
    return 0 if min(ratios) >= LEAST_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())
