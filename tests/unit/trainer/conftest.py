from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from chronos_ec2.workstation.sample_data import write_weather

COMMAND = [sys.executable, "-m", "chronos_ec2.instance.trainers.linear_quantile"]
START = np.datetime64("2024-01-01T00", "us")
SMALL = {"prediction_length": 8, "context_length": 48, "max_steps": 40, "save_steps": 10, "batch_size": 16}


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
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"run_id": "r", "training_config": training_config}))
        return path

    return write


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Outcome]:
    """Run the trainer to its end as a process of its own."""

    def run(config: Path, data: Path, *flags: str, output: Path | None = None) -> Outcome:
        where = output or tmp_path / "out put"
        command = [*COMMAND, "--config", str(config), "--data", str(data), "--output", str(where), *flags]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return Outcome(done.returncode, events, done.stderr, where)

    return run
