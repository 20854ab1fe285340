"""Spot machines are for trainers that say how often they save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import SettingsError
from chronos_ec2.instance.run_config import RunConfig
from chronos_ec2.instance.trainers.settings import load_config
from chronos_ec2.training_settings import ChronosConfig
from chronos_ec2.workstation.launch_files import run_config, run_record, user_data_values, write_launch_files
from chronos_ec2.workstation.settings import Settings, load_settings
from chronos_ec2.workstation.spot_policy import (
    checkpoint_cadence,
    expected_loss,
    require_cadence,
)

from .test_launch_files import FACTS, NOW, RUN_ID

COMMAND = {"trainer": "command", "command": '["train"]'}


def settings_with(**changes: str) -> Settings:
    return load_settings("dev", changes, variables={})


def test_our_trainers_own_cadence_is_known() -> None:
    for trainer in ("test", "chronos"):
        assert checkpoint_cadence(settings_with(trainer=trainer)) == 100
    assert checkpoint_cadence(settings_with(checkpoint_every_steps="7")) == 7


@pytest.mark.parametrize("market", ["spot", "spot-then-on-demand"])
def test_a_command_that_does_not_say_how_often_it_saves_gets_no_spot_machine(
    market: str, tmp_path: Path
) -> None:
    settings = settings_with(market=market, **COMMAND)
    with pytest.raises(SettingsError) as refused:
        write_launch_files(settings, FACTS, tmp_path, NOW)
    for words in ("lose all the work since the launch, up to 6 hours", "{checkpoints}/checkpoint-STEP"):
        assert words in str(refused.value)
    assert "--set checkpoint_every_steps=N" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more", [{"market": "on-demand"}, {"market": "spot", "checkpoint_every_steps": "50"}]
)
def test_one_that_does_and_one_that_needs_not_are_launched(more: dict[str, str]) -> None:
    require_cadence(settings_with(**COMMAND, **more))


def test_the_loss_to_expect_is_said_on_the_spot_market_alone() -> None:
    said = expected_loss(settings_with(market="spot", checkpoint_every_steps="50"))
    assert said is not None and "loses 50 steps at most, 25 on average" in said
    assert expected_loss(settings_with()) is None


def test_the_cadence_reaches_the_trainer(tmp_path: Path) -> None:
    config = run_config(settings_with(checkpoint_every_steps="50"), RUN_ID)
    assert RunConfig.from_mapping(config, "config.yaml").checkpoint_every_steps == 50
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert load_config(tmp_path / "config.yaml", ChronosConfig).save_steps == 50
    plain = run_config(settings_with(), RUN_ID)
    assert "save_steps" not in plain["training_config"]


def test_the_run_to_go_on_from_is_in_the_record_and_the_user_data() -> None:
    settings = settings_with()
    going_on: dict[str, Any] = {**FACTS, "resume": {"run_id": "2025-01-14-000000", "step": 40}}
    assert run_record(settings, going_on, NOW, NOW)["resume_from"] == "2025-01-14-000000"
    assert user_data_values(settings, going_on, NOW)["resume_from"] == "2025-01-14-000000"
    for facts in (FACTS, {**FACTS, "resume": None}):
        assert run_record(settings, facts, NOW, NOW)["resume_from"] is None
        assert user_data_values(settings, facts, NOW)["resume_from"] == ""
