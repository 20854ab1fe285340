"""Upstream's way to train a Chronos-T5, under the wrapper: metrics, a stop, going on, a model that loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

WRAPPER = Path(__file__).parents[3] / "python" / "training_wrapper.py"
SMALL = ("--context-length", "48", "--prediction-length", "8", "--batch-size", "4", "--log-steps", "1")


def start(folder: Path, data: Path, *flags: str) -> subprocess.Popen[str]:
    """The wrapper, with the command as the module's head gives it."""
    module = [
        "-m",
        "chronos_ec2.instance.trainers.t5_hugging_face",
        "--data",
        "{data}",
        "--output",
        "{output}",
    ]
    saving = ["--checkpoints", "{checkpoints}", "--save-steps", "{checkpoint_every_steps}"]
    config = {
        "run_id": "2026-01-01-000000",
        "environment": "local",
        "accelerator": "cpu",
        "trainer": "command",
        "checkpoint_every_steps": 1000,
        "command": [sys.executable, *module, *saving, *SMALL, *flags],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    output = folder / "output"
    output.mkdir(exist_ok=True)
    argv = ["--config", folder / "config.yaml", "--data", data, "--output", output]
    return subprocess.Popen(
        [sys.executable, str(WRAPPER), *map(str, argv)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "output/training.json").read_text())
    return found


def metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "output/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == "metric"]


def test_it_is_stopped_goes_on_and_leaves_a_model_that_the_library_loads(tmp_path: Path, waves: Path) -> None:
    with start(tmp_path, waves, "--max-steps", "100000") as first:
        end = time.monotonic() + 300
        while len(metrics(tmp_path)) < 2:
            assert first.poll() is None and time.monotonic() < end, first.communicate()
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        _, error = first.communicate(timeout=120)
    assert first.returncode == 75, error
    assert record(tmp_path)["status"] == "interrupted"
    told = metrics(tmp_path)
    (saved,) = (path.name for path in (tmp_path / "output/checkpoints").glob("checkpoint-*"))
    assert saved == f"checkpoint-{len(told)}", "no step is lost"
    assert {"loss", "lr", "grad_norm", "epoch"} <= told[0].keys()

    more = len(told) + 3
    with start(tmp_path, waves, "--max-steps", str(more)) as second:
        _, error = second.communicate(timeout=300)
    assert second.returncode == 0, error
    assert len(metrics(tmp_path)) == more, "the rest of the steps, and none twice"
    assert record(tmp_path)["status"] == "completed"
    assert record(tmp_path)["metrics"]["train_loss"] > 0
    from chronos import BaseChronosPipeline  # takes seconds

    pipeline = BaseChronosPipeline.from_pretrained(tmp_path / "output/models/chronos-t5")
    quantiles, _ = pipeline.predict_quantiles(torch.sin(torch.arange(48.0)), 8, quantile_levels=[0.1, 0.9])
    assert quantiles.shape == (1, 8, 2)
    assert (quantiles[..., 0] <= quantiles[..., 1]).all()
