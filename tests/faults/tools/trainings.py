"""Runs of the Chronos trainer that are stopped somewhere, and how they ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

STEPS: Final = 24
SAVE_STEPS: Final = 5
SMALL: Final[dict[str, Any]] = {
    "prediction_length": 8,
    "context_length": 48,
    "max_steps": STEPS,
    "batch_size": 8,
    "save_steps": SAVE_STEPS,
    "log_steps": 1,
    "model_config": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
}
TINY: Final = {"model_size": "tiny", "max_steps": 100_000, "save_steps": 100_000, "log_steps": 1}
_PATIENCE: Final = 1800.0
"""Longer than any start-up on a busy machine."""


def write_waves(folder: Path, length: int) -> Path:
    """Three hourly series: a daily wave with noise."""
    folder.mkdir(parents=True)
    hours = np.arange(length)
    noise = np.random.default_rng(0).normal(scale=0.5, size=(3, length))
    values = 10 + 3 * np.sin(hours * 2 * np.pi / 24) + noise
    table = {
        "item_id": np.repeat(["a", "b", "c"], length),
        "timestamp": np.tile(np.datetime64("2024-01-01T00", "us") + hours * np.timedelta64(1, "h"), 3),
        "target": values.ravel(),
    }
    pq.write_table(pa.table(table), folder / "waves.parquet")
    return folder


@dataclass(frozen=True)
class Training:
    """A run that has ended, or is under way."""

    output: Path
    statuses: tuple[int, ...] = ()
    said: str | None = None
    error: str = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has said, so far or until its end; whole lines alone."""
        path = self.output / "out"
        text = self.said if self.said is not None else path.read_text() if path.exists() else ""
        lines = text.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def losses(self) -> dict[int, float]:
        """The loss of each step."""
        return {event["step"]: event["loss"] for event in self.events if event["event"] == "metric"}

    def resumed_from(self) -> int:
        """The step that it went on from; 0 when it began anew."""
        return next((event["step"] for event in self.events if event["event"] == "resume"), 0)

    def weights(self) -> bytes:
        """The final weights."""
        return (self.output / "models/chronos2/model.safetensors").read_bytes()


class TrainerHost:
    """Starts trainings in `folder`, on the data and settings that lie there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = write_waves(folder / "data", 300)
        for rate in (0.0, 0.2):
            model = {**SMALL["model_config"], "dropout_rate": rate}
            config = {"training_config": {**SMALL, "model_config": model}}
            (folder / f"dropout {rate}.yaml").write_text(yaml.safe_dump(config))
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("trainer_host.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=_PATIENCE)
        self._process.stdout.close()

    def run(
        self,
        output: Path,
        *flags: str,
        processes: int = 1,
        dropout: float = 0.2,
        no_memory_before: int | None = None,
        meanwhile: Callable[[Training, list[int]], None] = lambda run, pids: None,
    ) -> Training:
        """Run a training to its end.

        Args:
            output: its output folder.
            processes: how many train together.
            dropout: 0.0 or 0.2; what is dropped is drawn in each process on its own.
            no_memory_before: the step that nothing is left for.
            meanwhile: is called while it runs, with the ids of its processes.
        """
        output.mkdir(parents=True, exist_ok=True)
        (output / "out").unlink(missing_ok=True)
        config = self._folder / f"dropout {dropout}.yaml"
        paths = {"--config": config, "--data": self._data, "--output": output}
        argv = [*(str(word) for pair in paths.items() for word in pair), *flags]
        asked = {"argv": argv, "folder": str(output), "processes": processes, "port": free_port()}
        asked["no_memory_before"] = no_memory_before
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        pids = json.loads(self._answer())
        meanwhile(Training(output), pids)
        statuses = tuple(json.loads(self._answer()))
        return Training(output, statuses, *((output / name).read_text() for name in ("out", "err")))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def await_that(happened: Callable[[], bool], pids: list[int], *, every: float = 0.002) -> bool:
    """Wait for something; False when the processes have ended before.

    Args:
        every: seconds between two looks; a step takes some hundredths, a checkpoint some thousandths.
    """
    end = time.monotonic() + _PATIENCE
    while not happened():
        if not any(_runs(pid) for pid in pids):
            return happened()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(every)
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def wrapped(folder: Path, processes: int) -> Iterator[subprocess.Popen[str]]:
    """The training wrapper with the preset tiny under torchrun, as on an instance."""
    output = folder / "output"
    if not (folder / "data").exists():
        write_waves(folder / "data", 900)
    config = {
        "run_id": "2026-01-01-000000",
        "environment": "local",
        "accelerator": "cpu",
        "trainer": "chronos",
    }
    text = yaml.safe_dump({**config, "processes": processes, "training_config": TINY})
    (folder / "config.yaml").write_text(text)
    output.mkdir(exist_ok=True)
    wrapper = Path(__file__).parents[3] / "python" / "training_wrapper.py"
    argv = ["--config", folder / "config.yaml", "--data", folder / "data", "--output", output]
    with subprocess.Popen(
        [sys.executable, str(wrapper), *map(str, argv)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()
