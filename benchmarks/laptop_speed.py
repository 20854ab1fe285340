"""How long the laptop's verbs take, beside a bare call of the AWS CLI in the same run.

    python benchmarks/laptop_speed.py        # prints the table, writes benchmarks/results/laptop_speed.md

An embedded AWS answers all of them, so the network's time is nothing and what is left is the programs' own.
The ratios are what to look at: `invoke --list`, `watch --once` and `runs` beside
`aws sts get-caller-identity`, a launch beside `aws ec2 run-instances`.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Final

from result_page import RESULTS, circumstances, table, write_page

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "faults")]

from tools.lab import Lab  # noqa: E402

RESULT: Final = RESULTS / "laptop_speed.md"
BASE: Final = "aws sts get-caller-identity"
BASE_RUN: Final = "aws ec2 run-instances"
PLAIN: Final = "launch_training.sh, each call a new AWS CLI"
LAUNCH: Final = ("--set", "trainer=command", "--set", 'command=["true"]')


@dataclass(frozen=True, slots=True)
class Sample:
    """One call.

    Attributes:
        seconds: of wall clock, to its end.
        processor: seconds of it and all its children.
        accepted: seconds of wall clock until EC2 had taken the instance; None for what launches none.
    """

    seconds: float
    processor: float
    accepted: float | None = None


def processor_seconds() -> float:
    """What all children that were waited for have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Bench:
    """An embedded AWS, and the calls to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        programs = Path(sys.executable).parent
        self.variables = {
            **lab.variables(),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "CHRONOS_PYTHON": sys.executable,
            "CHRONOS_PRICES_HOME": str(lab.folder / "prices"),
        }

    def timed(self, argv: Sequence[str], **more: str) -> Sample:
        """One call to its end."""
        before, start = processor_seconds(), time.perf_counter()
        done = subprocess.run(
            argv, env={**self.variables, **more}, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr}")
        return Sample(seconds, processor_seconds() - before)

    def launched(self, argv: Sequence[str], **more: str) -> Sample:
        """One launch, until it says that the instance is accepted; what it started is cleared away."""
        with ThreadPoolExecutor(1) as beside:
            start, over = time.perf_counter(), Event()
            seen = beside.submit(self._see_acceptance, start, over)
            try:
                sample = self.timed([*argv, "--env", "local", *LAUNCH], **more)
            finally:
                over.set()
        self.lab.clear()
        return replace(sample, accepted=seen.result())

    def _see_acceptance(self, start: float, over: Event) -> float | None:
        """Seconds until a machine has a disk: the embedded AWS gives it one when it takes the request."""
        disks = self.lab.home / "instances"
        while not over.wait(0.005):
            if any(disks.glob("i-*")):
                return time.perf_counter() - start
        return None

    def calls(self) -> dict[str, Callable[[], Sample]]:
        """Every way, by its name."""
        script = [str(REPOSITORY / "shell" / "launch_training.sh")]
        run = ["aws", "ec2", "run-instances", "--image-id", self._image(), "--count", "1", "--output", "json"]
        run += ["--tag-specifications", "ResourceType=instance,Tags=[{Key=RunId,Value=bare}]"]
        return {
            BASE: lambda: self.timed(["aws", "sts", "get-caller-identity"]),
            "invoke --list": lambda: self.timed(["invoke", "--list"]),
            "invoke watch --once": lambda: self.timed(["invoke", "watch", "--once", "--env", "local"]),
            "invoke runs": lambda: self.timed(["invoke", "runs", "--env", "local"]),
            BASE_RUN: lambda: self.timed(run),
            "launch_training.sh": lambda: self.launched(script),
            PLAIN: lambda: self.launched(script, CHRONOS_QUICK_AWS="false"),
            "invoke launch": lambda: self.launched(["invoke", "launch"]),
        }

    def _image(self) -> str:
        images = self.lab.aws.ec2.describe_images(Owners=["amazon"])["Images"]
        return str(images[0]["ImageId"])


def measure(bench: Bench, rounds: int) -> dict[str, Sample]:
    """Medians of each way; the ways take turns, so a busy machine is busy for all of them."""
    samples: dict[str, list[Sample]] = {}
    calls = bench.calls()
    for name in (BASE, "launch_training.sh"):  # once for the caches of the disk and the prices
        calls[name]()
    claim = "2025-01-15-143022"
    for _ in range(rounds):
        for name, call in calls.items():
            if name.startswith("invoke watch"):
                bench.lab.claim(claim)
            samples.setdefault(name, []).append(call())
            if name == BASE_RUN:
                bench.lab.clear()
    return {name: _median(all_of_it) for name, all_of_it in samples.items()}


def _median(samples: Sequence[Sample]) -> Sample:
    accepted = [sample.accepted for sample in samples if sample.accepted is not None]
    return Sample(
        statistics.median(sample.seconds for sample in samples),
        statistics.median(sample.processor for sample in samples),
        statistics.median(accepted) if accepted else None,
    )


def page(into: Path, found: Mapping[str, Sample], rounds: int) -> str:
    """Write the result; returns its text."""
    rows = []
    for name, sample in found.items():
        base = found[BASE_RUN if "launch" in name or name == BASE_RUN else BASE]
        rows.append(
            (
                name,
                f"{sample.seconds:.2f} s",
                f"{sample.processor:.2f} s",
                f"{sample.seconds / base.seconds:.2f}",
                f"{sample.processor / base.processor:.2f}",
                f"{sample.accepted / base.seconds:.2f}" if sample.accepted else "",
            )
        )
    return write_page(
        into,
        "The laptop's verbs beside a bare AWS CLI call",
        f"{circumstances('python benchmarks/laptop_speed.py')}, embedded AWS, medians of {rounds} rounds.",
        table(
            (
                *("call", "wall clock", "processor", "wall beside the bare call", "processor beside it"),
                "accepted, beside the bare call",
            ),
            rows,
        ),
        f"The bare call is `{BASE_RUN}` for launches and `{BASE}` for the rest. A launch is timed until EC2 "
        "has accepted the instance (the last column), and to its end: the outside switch is armed, the "
        "instance is seen to start, and its id is noted. The processor time "
        "of the process that answers a launch's AWS calls is not in its row: nobody waits for it.",
    )


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--into", type=Path, default=RESULT)
    given = parser.parse_args(argv)
    lab = Lab()
    try:
        print(page(given.into, measure(Bench(lab), given.rounds), given.rounds))
    finally:
        lab.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
