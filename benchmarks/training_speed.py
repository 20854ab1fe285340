"""Steps a second of our Chronos-2 loop beside the library's own `fit()`: same model, windows, batch, threads.

    python benchmarks/training_speed.py [--steps N] [--rounds N] [--report FILE.md]

Each model learns from windows with any past that series of 1000 values offer, and again from those alone
whose past fills the context. Both sides start from the same weights and take the same number of steps over
the same data in turns, each in a process of its own; told is the median of the rounds' ratios. On a CPU the
time is that of the process's own computing, in one thread, which other programs disturb least. The losses
of both are told: the windows are drawn alike but not the same, so they agree up to chance. Exits 1 when a
ratio is below 1.5.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import platform
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import SeriesSet
from chronos_ec2.instance.trainers.chronos.learner import Learner
from chronos_ec2.instance.trainers.chronos.model import random_model, save_model
from chronos_ec2.instance.trainers.chronos.processes import Processes
from chronos_ec2.instance.trainers.chronos.windows import Windows
from chronos_ec2.training_settings import ChronosConfig

LEAST_RATIO = 1.5
CASES = {
    "tiny (0.29 M), batch 32": (1, {"model_size": "tiny", "batch_size": 32}),
    "tiny (0.29 M), batch 128": (4, {"model_size": "tiny", "batch_size": 128}),
    "mini (28 M), batch 8": (6, {"model_size": "mini", "batch_size": 8}),
}
"""Each with how many times fewer steps it is given, as a step takes that much longer."""
PASTS = {"any from 64 values": {}, "longer than the context": {"min_past": 512}}
"""What lies before a window in its series: where that is less than the context, the rest is empty."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SERIES, LENGTH = 200, 1000


def now() -> float:
    """Seconds of computing: the process's own on a CPU, those on the clock when a GPU computes."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def series(length: int = LENGTH) -> SeriesSet:
    """Hourly series with a daily and a weekly season, trend and noise."""
    rng = np.random.default_rng(0)
    hours = np.arange(length)
    daily = np.sin(2 * np.pi * (hours / 24 + rng.random((SERIES, 1)))) * rng.uniform(1, 4, (SERIES, 1))
    weekly = np.sin(2 * np.pi * (hours / 168 + rng.random((SERIES, 1)))) * rng.uniform(1, 4, (SERIES, 1))
    values = 10 + daily + weekly + rng.normal(size=(SERIES, length))
    return SeriesSet(
        columns=Columns(),
        ids=[str(number) for number in range(SERIES)],
        offsets=np.arange(SERIES + 1) * length,
        values=values.astype(np.float32).reshape(1, -1),
        times=np.tile(hours * 3_600_000_000, SERIES),
        spacing_seconds=3600.0,
        rows=SERIES * length,
        dropped_short=0,
        gaps=0,
        missing=0,
        files=1,
    )


def set_up() -> None:
    """Prepare a process that trains."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def ours(config: ChronosConfig, data: SeriesSet) -> tuple[float, float]:
    """Steps a second, and the mean loss of the last quarter."""
    processes = Processes(DEVICE)
    windows = Windows(data, config)
    learner = Learner(random_model(config), config, windows.variates, processes)
    losses = []
    began = now()
    for step in range(1, config.max_steps + 1):
        losses.append(learner.update(windows.draw(config.seed, step, config.batch_size), step)[0])
    last = float(torch.stack(losses[-config.max_steps // 4 :]).mean())
    return config.max_steps / (now() - began), last


def theirs(config: ChronosConfig, data: SeriesSet) -> tuple[float, float]:
    """The same for the library, told by its own log."""
    from chronos import BaseChronosPipeline
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.began = self.ended = 0.0
            self.losses: list[float] = []

        def on_train_begin(self, *_: object, **__: object) -> None:
            self.began = now()

        def on_train_end(self, *_: object, **__: object) -> None:
            self.ended = now()

        def on_log(self, *_: object, logs: dict[str, float], **__: object) -> None:
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

    clock = Clock()
    held = config.prediction_length
    inputs = [row[:-held] for row in data.values[0].reshape(SERIES, LENGTH)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        save_model(random_model(config), Path(folder, "start"))
        pipeline = BaseChronosPipeline.from_pretrained(Path(folder, "start"), device_map=DEVICE)
        pipeline.fit(
            inputs,
            config.prediction_length,
            context_length=config.context_length,
            min_past=config.least_past,
            learning_rate=config.peak_learning_rate,
            num_steps=config.max_steps,
            batch_size=config.batch_size,
            output_dir=folder,
            callbacks=[clock],
            remove_printer_callback=True,
            warmup_steps=config.warmup,
            logging_steps=config.max_steps // 4,
            disable_tqdm=True,
        )
    return config.max_steps / (clock.ended - clock.began), clock.losses[-1]


def main() -> int:
    """Measure, print a table, and say whether we are fast enough."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    data, lines, good = series(), [], True
    mine, other = (ProcessPoolExecutor(1, get_context("spawn"), set_up) for _ in range(2))
    for (name, (fewer, case)), (past, least) in product(CASES.items(), PASTS.items()):
        steps = max(4, given.steps // fewer)
        config = ChronosConfig(max_steps=steps, log_steps=steps, **case, **least)
        rounds = []
        for _ in range(given.rounds + 1):
            found = [who.submit(way, config, data).result() for who, way in ((mine, ours), (other, theirs))]
            rounds.append(found)
        # The first round warms up.
        ratio = statistics.median(quick[0] / slow[0] for quick, slow in rounds[1:])
        losses = [statistics.median(pair[who][1] for pair in rounds[1:]) for who in (0, 1)]
        good &= ratio >= LEAST_RATIO
        lines.append(f"| {name} | {past} | {steps} | {ratio:.2f} x | {losses[0]:.2f} | {losses[1]:.2f} |")
        print(lines[-1], flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"one thread, {platform.machine()}"
    head = [
        "| model | past | steps | steps a second, ours to fit() | loss, ours | loss, fit() |",
        "|---|---|---|---|---|---|",
    ]
    table = "\n".join([*head, *lines])
    command = f"python benchmarks/training_speed.py --steps {given.steps} --rounds {given.rounds}"
    text = f"Context 512, prediction 64, {given.rounds} rounds of each in turns, medians; {where}."
    if given.report:
        given.report.write_text(f"# Speed of training\n\n    {command}\n\n{text}\n\n{table}\n")
    print(f"{text}\n\n{table}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
