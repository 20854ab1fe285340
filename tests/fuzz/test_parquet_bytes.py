"""Parquet with flaws, looked at in a process of its own with bounded memory: a crash there would be seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from faults.tools.tally import Tally

CHECK = """
import json, resource, sys
from pathlib import Path
from chronos_ec2.workstation.dataset import check_dataset
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    report = check_dataset(folder, min_length=10)
    kinds = sorted({finding.kind for finding in report.errors})
    assert all(str(finding).isprintable() for finding in report.findings), report.findings
    print(json.dumps([folder.name, kinds]), flush=True)
"""


def good(path: Path) -> bytes:
    """A file of two series, in pages small enough for a flaw to hit any part."""
    rows = 60
    table = pa.table(
        {
            "item_id": ["a"] * (rows // 2) + ["b"] * (rows // 2),
            "timestamp": pa.array(
                [index * 3_600_000_000 for index in range(rows // 2)] * 2, pa.timestamp("us")
            ),
            "target": [float(index % 7) for index in range(rows)],
        }
    )
    pq.write_table(table, path, data_page_size=64, compression="snappy")
    return path.read_bytes()


def spoilt(body: bytes, chance: Random) -> bytes:
    """The bytes with up to four flaws, most of them in the footer, which is what a reader trusts."""
    text = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        near_end = chance.random() < 0.6
        place = chance.randrange(max(0, len(text) - 600) if near_end else 0, max(1, len(text)))
        if chance.random() < 0.8:
            text[place : place + 1] = bytes([chance.randrange(256)])
        else:
            text[place : place + chance.randint(1, 30)] = chance.randbytes(chance.randint(0, 12))
    return bytes(text)


def test_any_flawed_file_is_named_or_read(tally: Tally, tmp_path: Path) -> None:
    body = good(tmp_path / "good.parquet")
    folders, chance = tmp_path / "folders", Random(tally.seed)
    count = 2000 if tally.full else 60
    for number in range(count):
        folder = folders / f"{number:05}"
        folder.mkdir(parents=True)
        (folder / "x.parquet").write_bytes(spoilt(body, chance))
    argv = [sys.executable, "-c", CHECK, str(folders)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {len(seen)} of {count} (seed {tally.seed}): {done.stderr[-3000:]}"
    assert len(seen) == count
    for _, kinds in seen:
        tally.count("Parquet file", "refused" if kinds else "read")
