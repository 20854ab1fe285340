from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

MODULE = "chronos_ec2.instance.trainers.chronos"
START = np.datetime64("2024-01-01T00", "us")
SMALL = {
    "prediction_length": 8,
    "context_length": 48,
    "max_steps": 12,
    "batch_size": 8,
    "save_steps": 4,
    "log_steps": 1,
    "model_config": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
}
TORCHRUN = ["torch.distributed.run", "--standalone", "--max-restarts=0"]


@dataclass(frozen=True)
class Outcome:
    """What a training left."""

    status: int
    events: list[dict[str, Any]]
    stderr: str
    output: Path

    def all(self, event: str) -> list[dict[str, Any]]:
        return [item for item in self.events if item["event"] == event]

    def one(self, event: str) -> dict[str, Any]:
        found = self.all(event)
        assert len(found) == 1, self
        return found[0]

    def losses(self) -> list[float]:
        return [item["loss"] for item in self.all("metric")]

    def weights(self) -> bytes:
        return (self.output / "models/chronos2/model.safetensors").read_bytes()


def write_table(path: Path, columns: dict[str, dict[str, Any]]) -> Path:
    """Write hourly series: columns by name, each a mapping of series to values."""
    first = next(iter(columns.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "item_id": [name for name, values in first.items() for _ in values],
        "timestamp": np.concatenate(
            [START + np.arange(len(v)) * np.timedelta64(1, "h") for v in first.values()]
        ),
    }
    for column, series in columns.items():
        table[column] = np.concatenate([np.asarray(series[name], dtype=float) for name in first])
    pq.write_table(pa.table(table), path)
    return path


def wave(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """A daily wave with noise."""
    noise = np.random.default_rng(seed).normal(scale=0.5, size=length)
    return 10 + 3 * np.sin(np.arange(length) * 2 * np.pi / 24) + noise


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hourly series, one shorter than the context."""
    folder = tmp_path_factory.mktemp("waves")
    write_table(
        folder / "waves.parquet", {"target": {"a": wave(300, 1), "b": wave(260, 2), "c": wave(40, 3)}}
    )
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a run's config.yaml: the small training, with changes."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"run_id": "r", "training_config": {**SMALL, **changes}}))
        return path

    return write


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Run the trainer's command line to its end, in this process: its libraries are loaded once."""
    from chronos_ec2.instance.trainers.chronos.__main__ import main

    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]

    def run(config: Path, data: Path, *flags: str, output: Path | None = None) -> Outcome:
        where = output or tmp_path / "out put"
        capsys.readouterr()
        status = main(arguments(config, data, where, *flags))
        captured = capsys.readouterr()
        return Outcome(status, read_events(captured.out), captured.err, where)

    yield run
    for number, handler in before:
        signal.signal(number, handler)


def arguments(config: Path, data: Path, output: Path, *flags: str) -> list[str]:
    """The trainer's command line behind the program."""
    return ["--config", str(config), "--data", str(data), "--output", str(output), *flags]


def start_apart(words: list[str], *, processes: int = 1) -> subprocess.Popen[str]:
    """Start the trainer as a process of its own, under torchrun where there shall be several."""
    launcher = [*TORCHRUN, f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    # A group of its own, as under the wrapper: a signal reaches torchrun and its workers.
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, MODULE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run_apart(words: list[str], output: Path, *, processes: int = 1) -> Outcome:
    """Run it to its end."""
    started = start_apart(words, processes=processes)
    out, err = started.communicate(timeout=300)
    return Outcome(started.returncode, read_events(out), err, output)


def read_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
