"""How soon ten million rows are ready for training: our loader beside pandas.

    python benchmarks/data_loading.py [--rounds N] [--report FILE.md]

A thousand hourly series of ten thousand values in twenty files. pandas reads the files, sorts by series and
time and cuts each series out as an array, which is what the library's own data frame path begins with. Both
in one process, in turns; the ratio is of the medians. Exits 1 when it is below 5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series

LEAST_RATIO = 5.0
SERIES, LENGTH, FILES = 1000, 10_000, 20


def write(folder: Path) -> None:
    """Write the files, each with its share of the series."""
    rng = np.random.default_rng(0)
    times = np.datetime64("2020-01-01", "us") + np.arange(LENGTH) * np.timedelta64(1, "h")
    for number, names in enumerate(np.array_split(np.arange(SERIES), FILES)):
        table = {
            "item_id": np.repeat([f"series-{name:04d}" for name in names], LENGTH),
            "timestamp": np.tile(times, len(names)),
            "target": rng.normal(size=len(names) * LENGTH),
        }
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


def main() -> int:
    """Measure, print, and say whether we are fast enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"ours": [], "pandas": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        for _ in range(given.rounds):
            for who, load in (("ours", ours), ("pandas", by_pandas)):
                began = time.perf_counter()
                assert load(folder) == SERIES * LENGTH
                seconds[who].append(time.perf_counter() - began)
    ratio = statistics.median(seconds["pandas"]) / statistics.median(seconds["ours"])
    text = (
        f"{SERIES * LENGTH / 1e6:.0f} million rows, {SERIES} series, {FILES} files, two cores, "
        f"{given.rounds} rounds:\nready **{ratio:.1f} times** sooner than by pandas "
        "(ours checks for duplicates, counts gaps and takes the digest as well)."
    )
    print(text)
    if given.report:
        command = "python " + " ".join(word for word in sys.argv[:1])
        given.report.write_text(f"# Data loading\n\n    {command}\n\n{text}\n")
    return 0 if ratio >= LEAST_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())
