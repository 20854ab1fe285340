"""How busy a GPU is kept, and steps a second: mini and base, context 512 and 2048, compiled and not.

    python benchmarks/gpu_training.py [--seconds N] [--batch N] [--report benchmarks/results/gpu_training.md]

No figures have been taken yet: no GPU has been at hand. The aim is a GPU that is busy 95 % of the time in
each case, and to know from what length of run on `torch_compile` pays. Takes about ten minutes on one GPU;
nothing is downloaded. Busy is what the driver counts (NVML, asked by nvidia-smi five times a second): the
share of time in which a kernel ran. Batches come as in the trainer: from a thread, out of pinned memory.

Without a GPU it runs the smallest model for a moment, to show that it works. Exits 1 when a GPU was busy less
than 95 % in the best of compiled and not.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from training_speed import series

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.instance.trainers.chronos.feed import Feed
from chronos_ec2.instance.trainers.chronos.learner import Learner
from chronos_ec2.instance.trainers.chronos.model import random_model
from chronos_ec2.instance.trainers.chronos.processes import Processes
from chronos_ec2.instance.trainers.chronos.windows import Batch, Windows
from chronos_ec2.training_settings import ChronosConfig

LEAST_BUSY = 95.0
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = ("mini", "base") if DEVICE == "cuda" else ("tiny",)
CONTEXTS = (512, 2048) if DEVICE == "cuda" else (512,)
WARM_UP_STEPS = 10 if DEVICE == "cuda" else 2


@dataclass(frozen=True)
class Case:
    """What was measured."""

    size: str
    context: int
    compiled: bool
    precision: str
    first_steps_seconds: float
    steps_per_second: float
    busy: float | None
    memory_gb: float

    def row(self, batch: int) -> str:
        """Its line of the table."""
        busy = "-" if self.busy is None else f"{self.busy:.0f} %"
        return (
            f"| {self.size} | {self.context} | {'yes' if self.compiled else 'no'} | {self.precision} | "
            f"{self.first_steps_seconds:.0f} s | {self.steps_per_second:.2f} | "
            f"{self.steps_per_second * batch:.0f} | {busy} | {self.memory_gb:.1f} GB |"
        )


HEAD = (
    "| model | context | compiled | precision | warm-up | steps/s | windows/s | GPU busy | memory |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


@contextmanager
def busy_samples() -> Iterator[list[float]]:
    """What the driver says of this GPU in the meantime, in percent; empty without one."""
    samples: list[float] = []
    if DEVICE == "cpu":
        yield samples
        return
    argv = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen([*argv, "-i", "0"], stdout=subprocess.PIPE, text=True) as asked:
        yield samples
        asked.terminate()
        assert asked.stdout is not None
        samples += [float(line) for line in asked.stdout.read().split()]


def synchronize() -> None:
    """Wait for what the GPU has to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(data: SeriesSet, size: str, context: int, compiled: bool, batch: int, seconds: float) -> Case:
    """Train for a while."""
    config = ChronosConfig(
        model_size=size, context_length=context, batch_size=batch, max_steps=10**9, torch_compile=compiled
    )
    processes = Processes(DEVICE)
    windows = Windows(data, config)
    learner = Learner(random_model(config), config, windows.variates, processes)

    def draw(step: int) -> Batch:
        drawn = windows.draw(0, step, batch)
        return drawn.pinned() if DEVICE == "cuda" else drawn

    step = 0
    with Feed(draw, 1, config.max_steps) as feed:
        began = time.perf_counter()
        while step < WARM_UP_STEPS:
            step += 1
            learner.update(feed.take(), step)
        synchronize()
        warm = time.perf_counter()
        with busy_samples() as samples:
            while time.perf_counter() - warm < seconds:
                step += 1
                loss, _ = learner.update(feed.take(), step)
                if step % config.log_steps == 0:
                    float(loss)  # as the trainer does: it reads the loss now and then
            synchronize()
            took = time.perf_counter() - warm
    memory = torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else 0.0
    return Case(
        size,
        context,
        compiled,
        learner.precision,
        warm - began,
        (step - WARM_UP_STEPS) / took,
        # The driver's first and last sample reach beyond the time.
        statistics.mean(samples[1:-1]) if len(samples) > 2 else None,
        memory,
    )


def main() -> int:
    """Measure every case, print a table, and say whether the GPU was kept busy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0 if DEVICE == "cuda" else 2.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    data = series(length=6000)
    lines, good = [], True
    for size in SIZES:
        for context in CONTEXTS:
            cases = []
            for compiled in (False, True):
                if DEVICE == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                cases.append(measure(data, size, context, compiled, given.batch, given.seconds))
                lines.append(cases[-1].row(given.batch))
                print(lines[-1], flush=True)
            busiest = max((case.busy for case in cases if case.busy is not None), default=LEAST_BUSY)
            good &= busiest >= LEAST_BUSY
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU: this shows only that it runs"
    text = f"Batch {given.batch}, prediction 64, {given.seconds:g} s each; {where}."
    table = "\n".join([HEAD, *lines])
    print(f"{text}\n\n{table}")
    if given.report:
        command = f"python benchmarks/gpu_training.py --seconds {given.seconds:g} --batch {given.batch}"
        given.report.write_text(f"# Training on a GPU\n\n    {command}\n\n{text}\n\n{table}\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
