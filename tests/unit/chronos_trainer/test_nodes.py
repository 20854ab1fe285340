"""torchrun under the wrapper: on two machines, which meet and learn what one process learns; and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from chronos_ec2.instance.place import free_port
from chronos_ec2.instance.process_tree import descendants
from chronos_ec2.workstation.settings import REPOSITORY
from outside_looks import until

from .conftest import SMALL, Outcome, is_alive

WRAPPER = str(REPOSITORY / "python" / "training_wrapper.py")


def start(folder: Path, data: Path, *flags: str, **changes: object) -> subprocess.Popen[str]:
    """Start the wrapper of a machine whose disk is `folder`; `changes` are the run's settings that differ."""
    folder.mkdir()
    run: dict[str, object] = {
        "run_id": "2025-01-15-143022",
        "environment": "dev",
        "accelerator": "cpu",
        "trainer": "chronos",
    }
    config = folder / "config.yaml"
    run |= {"nodes": 2, "processes": 1, "training_config": SMALL, **changes}
    config.write_text(yaml.safe_dump(run))
    (folder / "output").mkdir()
    argv = [sys.executable, WRAPPER, "--config", str(config), "--data", str(data)]
    return subprocess.Popen(
        [*argv, "--output", str(folder / "output"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_machines_learn_what_one_process_does_and_only_the_first_one_writes(
    train: Callable[..., Outcome], config: Callable[..., Path], waves: Path, tmp_path: Path
) -> None:
    master = f"127.0.0.1:{free_port()}"
    nodes = [
        start(tmp_path / str(rank), waves, "--nodes", "2", "--node-rank", str(rank), "--master", master)
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    first, second = (tmp_path / str(rank) / "output" for rank in (0, 1))
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    alone = train(config(), waves, output=tmp_path / "alone")
    assert losses == pytest.approx(alone.losses(), abs=1e-5)
    assert (first / "models" / "model.pkl").exists() and (first / "checkpoints").is_dir()
    assert not (second / "models").exists() and list((second / "checkpoints").iterdir()) == []
    assert json.loads((second / "training.json").read_text())["status"] == "completed"


def test_a_failure_under_torchrun_is_told_in_the_trainers_own_words(waves: Path, tmp_path: Path) -> None:
    odd = {**SMALL, "batch_size": 9}
    wrapper = start(tmp_path / "0", waves, nodes=1, processes=2, training_config=odd)
    said = wrapper.communicate(timeout=600)[0]
    record = json.loads((tmp_path / "0" / "output" / "training.json").read_text())
    assert "it last said: error: batch_size 9 must be a multiple of" in record["error"], said


@pytest.mark.parametrize("learning", [False, True], ids=["while the workers start", "while they learn"])
def test_torchrun_and_its_workers_end_with_a_wrapper_that_is_killed(
    waves: Path, tmp_path: Path, *, learning: bool
) -> None:
    # Silent as well: one that speaks would end anyway, as nobody listens any more.
    endless = {**SMALL, **dict.fromkeys(("max_steps", "save_steps", "log_steps"), 10**6)}
    wrapper = start(tmp_path / "0", waves, nodes=1, processes=2, training_config=endless)
    metrics = tmp_path / "0" / "output" / "metrics.jsonl"
    try:
        until(lambda: len(descendants(wrapper.pid)) >= 3, "no torchrun with two workers", 300)
        if learning:
            until(lambda: metrics.exists() and '"start"' in metrics.read_text(), "no start", 300)
        below = descendants(wrapper.pid)
    finally:
        wrapper.kill()
        wrapper.communicate()
    until(lambda: not any(is_alive(pid) for pid in below), "they live on", 300)
