"""A run's config.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import SettingsError
from chronos_ec2.instance.run_config import RunConfig, load_run_config

LEAST = {"run_id": "2025-01-15-143022", "environment": "dev", "accelerator": "cpu"}


def test_defaults() -> None:
    config = RunConfig.from_mapping(LEAST, "x")
    assert (config.trainer, config.command, config.seed) == ("test", (), 0)
    assert (config.min_free_disk_gb, config.heartbeat_seconds) == (20.0, 15.0)


def test_a_file_as_launch_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "run_id: 2025-01-15-143022\nenvironment: local\ntrainer: command\ncommand: [train, '{config}']\n"
        "accelerator: cuda\nheartbeat_seconds: 5\ntraining_config: {prediction_length: 64}\n"
    )
    config = load_run_config(path)
    assert config.command == ("train", "{config}") and config.heartbeat_seconds == 5.0
    assert config.training_config == {"prediction_length": 64}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heartbeat_second": 3}, "unknown key 'heartbeat_second'; did you mean 'heartbeat_seconds'"),
        ({"zzz": 3}, "unknown key 'zzz'; known: run_id"),
        ({"run_id": "../2025"}, "run_id is '../2025'"),
        ({"run_id": "2025-01-15-143022\n"}, "run_id is"),
        ({"environment": "x;rm -rf ~"}, "environment is 'x;rm -rf ~'"),
        ({"accelerator": "gpu"}, "accelerator is 'gpu', expected cpu or cuda"),
        ({"accelerator": None}, "accelerator is None, expected cpu or cuda"),
        ({"trainer": "command"}, "so command is needed"),
        ({"command": "python train.py"}, "a list of strings"),
        ({"command": ["a", 8]}, "a list of strings"),
        ({"heartbeat_seconds": 0}, "a number from 0.1"),
        ({"heartbeat_seconds": True}, "a number from 0.1"),
        ({"heartbeat_seconds": float("nan")}, "a number from 0.1"),
        ({"min_free_disk_gb": "20"}, "a number from 0"),
        ({"seed": -1}, "a whole number"),
        ({"training_config": [1]}, "a mapping"),
    ],
)
def test_what_is_off_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RunConfig.from_mapping({**LEAST, **changes}, "the config")
    assert "the config: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "\0", "[" * 1500])
def test_what_is_no_config_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=str(path)):
        load_run_config(path)


def test_a_missing_accelerator_is_never_guessed() -> None:
    with pytest.raises(SettingsError, match="accelerator is missing, expected cpu or cuda"):
        RunConfig.from_mapping({k: v for k, v in LEAST.items() if k != "accelerator"}, "x")
