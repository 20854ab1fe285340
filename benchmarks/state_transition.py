"""What one transition of the state file costs beside a bare `aws s3 cp` of the same body.

Usage: python benchmarks/state_transition.py [--rounds N] [--into FILE]

Starts an embedded AWS of its own; each round measures every way once, in turn, so that a busy machine is
unfair to all alike. Times are medians. Requests are counted in one more round, by a proxy. Against real S3
each request costs its network time on top: the requests, not the seconds, carry over.

Writes benchmarks/results/state_transition.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from result_page import RESULTS, circumstances, table, write_page

from chronos_ec2.local_cloud import control
from chronos_ec2.state.clock import utc_now
from chronos_ec2.state.store import Snapshot, StateStore

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "faults"))

from tools.fault_proxy import FaultProxy  # noqa: E402
from tools.scenes import state_body  # noqa: E402

RESULT: Final = RESULTS / "state_transition.md"
BUCKET, ENVIRONMENT, RUN = "bench", "local", "2025-01-15-143022"
BASE: Final = "aws s3 cp"
_BASH: Final = """
set -Eeuo pipefail
source shell/lib/state_helpers.sh
timed() {
  local name=$1 start=$EPOCHREALTIME
  shift
  "$@" >/dev/null
  printf '%s\t%s\n' "$name" "$(jq -n --argjson a "$start" --argjson b "$EPOCHREALTIME" '$b - $a')"
}
read_state "$1" "$2"
jq . <<<"$STATE_JSON" >"$4"
timed 'aws s3 cp' aws s3 cp --only-show-errors "$4" "s3://$1/copy.json"
timed 'Bash, state at hand' transition_state "$1" "$2" "$3" training step_1
forget_state
timed 'Bash, state read first' transition_state "$1" "$2" "$3" training step_2
"""


def client(url: str) -> Any:
    """An S3 client of the embedded AWS."""
    keys: dict[str, Any] = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    config = Config(retries={"mode": "standard"})
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **keys)


class Bench:
    """One place to measure in; `url` is where AWS is reached."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._body = folder / "body.json"
        self._s3 = client(url)
        self._store = StateStore(self._s3, BUCKET, ENVIRONMENT)

    def bash(self) -> dict[str, float]:
        """Seconds of the ways in Bash; the AWS CLI's start-up is part of each, as it is in a run."""
        variables = os.environ | _VARIABLES | {"AWS_ENDPOINT_URL": self._url, "PATH": _path()}
        words = [BUCKET, ENVIRONMENT, RUN, str(self._body)]
        done = subprocess.run(
            ["bash", "-c", _BASH, "bash", *words],
            cwd=REPOSITORY,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        rows = (line.split("\t") for line in done.stdout.splitlines())
        return {name: float(seconds) for name, seconds in rows}

    def python(self) -> dict[str, float]:
        """Seconds of the ways in Python, in a process that has its client, as the wrapper does."""
        seen = self._store.read()
        assert seen is not None
        body = self._body.read_bytes()
        return {
            "boto3 put_object": timed(lambda: self._s3.put_object(Bucket=BUCKET, Key="copy.json", Body=body)),
            "Python, state at hand": timed(lambda: self._update(seen)),
            "Python, state read first": timed(lambda: self._store.transition(RUN, "training", "step_4")),
        }

    def ways(self) -> dict[str, Callable[[], object]]:
        """Each way in Python by itself, to count its requests."""
        seen = self._store.read()
        assert seen is not None
        return {
            "boto3 put_object": lambda: self._s3.put_object(Bucket=BUCKET, Key="copy.json", Body=b"x"),
            "Python, state at hand": lambda: self._update(seen),
            "Python, state read first": lambda: self._store.transition(RUN, "training", "step_4"),
        }

    def _update(self, seen: Snapshot) -> None:
        assert self._store.update(seen, {"current_step": "step_3"}) is not None


_VARIABLES: Final = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_PAGER": "",
}


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def count_requests(url: str, folder: Path) -> dict[str, int]:
    """Requests of each way, counted by a proxy."""
    proxy = FaultProxy(url)
    try:
        bench, counts = Bench(proxy.url, folder), {}
        bench.bash()
        names = [str(request.operation) for request in proxy.seen]
        # read_state, then cp, three of a transition, four of the next
        assert len(names) == 1 + 1 + 3 + 4, names
        counts = {BASE: 1, "Bash, state at hand": 3, "Bash, state read first": 4}
        for name, way in bench.ways().items():
            before = len(proxy.seen)
            way()
            counts[name] = len(proxy.seen) - before
        return counts
    finally:
        proxy.close()


def measure(url: str, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each way."""
    bench = Bench(url, folder)
    bench.bash()  # once for the caches of the disk
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, seconds in (bench.bash() | bench.python()).items():
            samples.setdefault(name, []).append(seconds)
    return {name: statistics.median(values) for name, values in samples.items()}


def page(
    into: Path, seconds: Mapping[str, float], requests: Mapping[str, int], rounds: int, command: str
) -> str:
    """Write the result; returns its text."""
    rows = [
        (name, str(requests[name]), f"{value * 1000:.0f} ms", f"{value / seconds[BASE]:.2f}")
        for name, value in seconds.items()
    ]
    return write_page(
        into,
        "The cost of one transition",
        f"{circumstances(command)}, embedded AWS, medians of {rounds} rounds. "
        "Every call of the AWS CLI pays its start-up, as it does in a run.",
        table(("way", "requests", "time", "beside `aws s3 cp`"), rows),
        "A transition stages the body, publishes it by one conditional CopyObject and drops the staged body; "
        "the state is read first when the writer does not know it, or has lost a race.",
    )


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--into", type=Path, default=RESULT)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        url = control.start(folder / "cloud").endpoint_url
        try:
            s3 = client(url)
            s3.create_bucket(Bucket=BUCKET)
            StateStore(s3, BUCKET, ENVIRONMENT).claim(
                state_body(BUCKET, ENVIRONMENT, RUN, "training", "i-0123456789abcdef0", utc_now())
            )
            seconds = measure(url, folder, given.rounds)
            requests = count_requests(url, folder)
        finally:
            control.stop(folder / "cloud")
    print(page(given.into, seconds, requests, given.rounds, "python benchmarks/state_transition.py"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
