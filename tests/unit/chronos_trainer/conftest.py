from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

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
        settings = {**SMALL, **changes}
        if "model_id" in changes:
            del settings["model_config"]
        path.write_text(yaml.safe_dump({"run_id": "r", "training_config": settings}))
        return path

    return write


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Outcome]:
    """Run the trainer's command line to its end, in this process: its libraries are loaded once."""

    def run(config: Path, data: Path, *flags: str, output: Path | None = None) -> Outcome:
        return run_here(config, data, output or tmp_path / "out put", *flags)

    return run


def run_here(config: Path, data: Path, output: Path, *flags: str) -> Outcome:
    """Run the trainer's command line in this process."""
    from chronos_ec2.instance.trainers.chronos.__main__ import main

    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments(config, data, output, *flags))
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return Outcome(status, read_events(out.getvalue()), err.getvalue(), output)


@pytest.fixture(scope="session")
def made_whole(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A small run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "config.yaml").write_text(yaml.safe_dump({"run_id": "r", "training_config": SMALL}))
    outcome = run_here(folder / "config.yaml", waves, folder / "output")
    assert outcome.status == 0, outcome.stderr
    return outcome


@pytest.fixture
def whole(made_whole: Outcome, tmp_path: Path) -> Outcome:
    """That run, in a copy of the test's own."""
    return replace(made_whole, output=Path(shutil.copytree(made_whole.output, tmp_path / "whole")))


def arguments(config: Path, data: Path, output: Path, *flags: str) -> list[str]:
    """The trainer's command line behind the program."""
    return ["--config", str(config), "--data", str(data), "--output", str(output), *flags]


def read_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
