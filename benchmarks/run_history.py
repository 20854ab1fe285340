"""How many requests `invoke runs` makes for 10, 100, 1,000 and 10,000 runs.

Usage: python benchmarks/run_history.py [--into FILE]

Puts records of ended runs into moto's S3 in this process and lists them: the newest 50, then all with nothing
kept on this machine, then all once more. Requests are counted by the client. Against real S3 each request
costs its network time, 24 at a time: the requests, not the seconds, carry over.

Writes benchmarks/results/run_history.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from chronos_ec2.workstation.history_cache import HistoryCache
from chronos_ec2.workstation.runs import WORKERS, list_runs

REPOSITORY: Final = Path(__file__).resolve().parents[1]
RESULT: Final = REPOSITORY / "benchmarks" / "results" / "run_history.md"
SIZES: Final = (10, 100, 1000, 10_000)
BUCKET, ENVIRONMENT = "bench", "dev"


def record(run_id: str, began: datetime) -> bytes:
    """A run.json of usual size."""
    text = "%Y-%m-%dT%H:%M:%SZ"
    phases = [{"name": f"phase_{n}", "started_at": began.strftime(text), "seconds": n} for n in range(8)]
    files = [{"name": f"part-{n:04}.parquet", "bytes": 10**6, "sha256": "0" * 64} for n in range(12)]
    body = {
        "run_id": run_id,
        "environment": ENVIRONMENT,
        "outcome": "succeeded",
        "started_at": began.strftime(text),
        "ended_at": (began + timedelta(minutes=20)).strftime(text),
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "metrics": {"WQL": 0.1, "MASE": 0.8, "baselines": {"seasonal_naive": {"WQL": 0.2}}},
        "phases": phases,
        "dataset": {"files": files},
        "cost_usd": {"total": 0.25},
    }
    return json.dumps(body, indent=2).encode()


def fill(have: int, want: int) -> None:
    """Put more runs into the bucket, half an hour apart."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    first = datetime(2025, 1, 1, tzinfo=UTC)
    for number in range(have, want):
        began = first + timedelta(minutes=30 * number)
        run_id = f"{began:%Y-%m-%d-%H%M%S}"
        backend.put_object(BUCKET, f"{ENVIRONMENT}/{run_id}/run.json", record(run_id, began))


def measured(s3: Any, counts: Counter[str], act: Callable[[], list[Any]]) -> tuple[int, int, int, float]:
    """How many runs came, how many LISTs and GETs that took, and seconds."""
    counts.clear()
    began = time.monotonic()
    found = act()
    return len(found), counts["ListObjectsV2"], counts["GetObject"], time.monotonic() - began


def rows(s3: Any, counts: Counter[str], folder: Path) -> Iterator[str]:
    """A line of the table for each size and way."""
    have = 0
    for size in SIZES:
        fill(have, size)
        have = size
        cache = HistoryCache(folder / f"{size}.sqlite", BUCKET, ENVIRONMENT)
        for name, limit, kept in (
            ("newest 50", 50, None),
            ("all, first time", 0, cache),
            ("all, again", 0, cache),
        ):

            def act(limit: int = limit, kept: HistoryCache | None = kept) -> list[Any]:
                return list_runs(s3, BUCKET, ENVIRONMENT, limit=limit, cache=kept)

            runs, lists, gets, seconds = measured(s3, counts, act)
            each = (lists + gets) / size
            yield f"| {size:,} | {name} | {runs:,} | {lists} | {gets:,} | {each:.3f} | {seconds:.1f} |"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, default=RESULT)
    into = parser.parse_args().into
    with mock_aws(), tempfile.TemporaryDirectory() as folder:
        s3: Any = boto3.client(
            "s3",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(max_pool_connections=WORKERS),
        )
        s3.create_bucket(Bucket=BUCKET)
        counts: Counter[str] = Counter()
        s3.meta.events.register("before-call.s3", lambda model, **_: counts.update([model.name]))
        table = list(rows(s3, counts, Path(folder)))
    page = (
        f"""# Requests of `invoke runs`

`python benchmarks/run_history.py`, {datetime.now(UTC):%Y-%m-%d}. One GET is for the state
file. The seconds are those of an S3 in the same Python process, on a busy machine of two cores: they say what
client and S3 cost together there, not what the network does.

| runs in the bucket | listed | shown | LIST | GET | requests a run in the bucket | seconds |
|---|---|---|---|---|---|---|
"""
        + "\n".join(table)
        + "\n"
    )
    into.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
