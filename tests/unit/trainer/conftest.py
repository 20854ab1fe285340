from __future__ import annotations

import json
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

from chronos_ec2.instance.trainers import linear_quantile
from chronos_ec2.workstation.sample_data import write_weather

COMMAND = [sys.executable, "-m", "chronos_ec2.instance.trainers.linear_quantile"]
START = np.datetime64("2024-01-01T00", "us")
SMALL = {"prediction_length": 8, "context_length": 48, "max_steps": 40, "batch_size": 16}
SMALL |= {"save_steps": 10, "log_steps": 5}


@dataclass(frozen=True)
class Outcome:
    """What a trainer's process left."""

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


def write_series(folder: Path, name: str, series: dict[str, Any], step: str = "1h") -> Path:
    """Write one file of evenly spaced series, given their targets."""
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.timedelta64(int(step[:-1]), step[-1])
    table = pa.table(
        {
            "item_id": [key for key, values in series.items() for _ in values],
            "timestamp": np.concatenate([START + np.arange(len(v)) * spacing for v in series.values()]),
            "target": np.concatenate([np.asarray(values, dtype=float) for values in series.values()]),
        }
    )
    pq.write_table(table, folder / name)
    return folder / name


def wave(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """A daily wave with noise."""
    noise = np.random.default_rng(seed).normal(scale=0.5, size=length)
    return 10 + 3 * np.sin(np.arange(length) * 2 * np.pi / 24) + noise


@pytest.fixture(scope="session")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weather data")
    write_weather(folder)
    return folder


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small hourly series."""
    folder = tmp_path_factory.mktemp("waves")
    write_series(folder, "waves.parquet", {"a": wave(300, 1), "b": wave(260, 2)})
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a run's config.yaml with a training_config."""

    def write(**training_config: Any) -> Path:
        return write_config(tmp_path / "config.yaml", training_config)

    return write


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Run the trainer's command line to its end, in this process: fast."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]

    def run(config: Path, data: Path, *flags: str, output: Path | None = None) -> Outcome:
        where = output or tmp_path / "out put"
        capsys.readouterr()
        try:
            status = linear_quantile.main(arguments(config, data, where, *flags))
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, read_events(captured.out), captured.err, where)

    yield run
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def train_apart(tmp_path: Path) -> Callable[..., Outcome]:
    """Run the trainer as a process of its own: with its own single BLAS thread, and free to crash."""

    def run(config: Path, data: Path, *flags: str, output: Path | None = None) -> Outcome:
        return run_apart(config, data, output or tmp_path / "out put", *flags)

    return run


@pytest.fixture(scope="session")
def whole(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A small run on the waves that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = run_apart(write_config(folder / "config.yaml", SMALL), waves, folder / "output")
    assert outcome.status == 0, outcome.stderr
    return outcome


def arguments(config: Path, data: Path, output: Path, *flags: str) -> list[str]:
    """The trainer's command line behind the program."""
    return ["--config", str(config), "--data", str(data), "--output", str(output), *flags]


def run_apart(config: Path, data: Path, output: Path, *flags: str) -> Outcome:
    command = [*COMMAND, *arguments(config, data, output, *flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Outcome(done.returncode, read_events(done.stdout), done.stderr, output)


def read_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_config(path: Path, training_config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"run_id": "r", "training_config": training_config}))
    return path
