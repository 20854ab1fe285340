from __future__ import annotations

from pathlib import Path

import pytest

from chronos_ec2.errors import SettingsError
from chronos_ec2.instance.trainers.settings import load_config
from chronos_ec2.training_settings import LinearConfig


def load(tmp_path: Path, text: str) -> LinearConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, LinearConfig)


@pytest.mark.parametrize("text", ["", "run_id: x", "training_config:", "training_config: {}"])
def test_what_is_not_said_has_a_default(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == LinearConfig()


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "training_config: {prediction_length: 1, context_length: 2, max_steps: 3, batch_size: 4, "
        "learning_rate: 0.5, seed: 6, save_steps: 7, log_steps: 8, season_length: 9}",
    )
    expected = {"prediction_length": 1, "context_length": 2, "max_steps": 3, "batch_size": 4}
    expected |= {"seed": 6, "save_steps": 7, "log_steps": 8, "season_length": 9}
    assert config == LinearConfig(learning_rate=0.5, **expected)
    assert config.min_length == 4


def test_a_learning_rate_as_people_write_it_is_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, "training_config: {learning_rate: 1e-2}").learning_rate == 0.01


def test_the_runs_seed_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    assert load(tmp_path, "seed: 5").seed == 5
    assert load(tmp_path, "seed: 5\ntraining_config: {seed: 7}").seed == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training_config: {learing_rate: 1}", "learing_rate is unknown; did you mean learning_rate?"),
        ("training_config: {zzz: 1}", "zzz is unknown; did you mean"),
        ("training_config: {max_steps: many}", "max_steps must be a whole number from 1 up, not 'many'"),
        ("training_config: {max_steps: 0}", "max_steps must be a whole number from 1 up, not 0"),
        ("training_config: {max_steps: 3.5}", "max_steps must be a whole number"),
        ("training_config: {max_steps: true}", "max_steps must be a whole number"),
        ("training_config: {max_steps: null}", "max_steps must be a whole number"),
        ("training_config: {seed: -1}", "seed must be a whole number from 0 up"),
        ("training_config: {learning_rate: -1}", "learning_rate must be a number above 0"),
        ("training_config: {learning_rate: .nan}", "learning_rate must be a number above 0"),
        ("training_config: {learning_rate: [1]}", "learning_rate must be a number above 0"),
        ("training_config: [1]", "training_config must be a mapping, not a list"),
        ("- 1", "a mapping of settings was expected, not a list"),
        ("a: [", "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_a_wrong_setting_is_named_on_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read \(No such file"):
        load_config(tmp_path / "none.yaml", LinearConfig)
