"""The files of one launch: user data, config.yaml, run.json and the first state."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.instance.run_config import load_run_config
from chronos_ec2.state.machine import validate_state
from chronos_ec2.workstation import launch_files
from chronos_ec2.workstation.launch_files import (
    example_user_data,
    first_state,
    git_facts,
    run_record,
    write_launch_files,
)
from chronos_ec2.workstation.settings import Settings, load_settings

NOW = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)
RUN_ID = "2025-01-15-143022"
FACTS: dict[str, Any] = {
    "run_id": RUN_ID,
    "bucket": "the-bucket",
    "requested_by": "arn:aws:iam::123456789012:user/ana",
    "ami": {"id": "ami-0123", "name": "an image", "root_device": "/dev/sda1"},
    "subnets": [{"subnet_id": "subnet-1", "zone": "us-east-1a"}],
    "scripts_sha256": "b" * 64,
    "dataset_sha256": "c" * 64,
    "environment_archive": {
        "archive": "chronos-venv-3.11.tar.gz",
        "sha256": "a" * 64,
        "pieces_sha256": "d" * 64,
        "bytes": 5,
    },
    "dataset": {"rows": 7, "series": 2, "files": [{"name": "a.parquet"}], "uploaded_at": "x"},
}


@pytest.fixture
def launched(settings: Settings, tmp_path: Path) -> Path:
    write_launch_files(settings, FACTS, tmp_path, NOW)
    return tmp_path


def decoded(file: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(file.read_text())
    return body


# -- the first state ----------------------------------------------------------------------------------


def test_the_first_state_is_the_documents(launched: Path) -> None:
    state = validate_state(decoded(launched / "state.json"))
    writer = state["control"].pop("writer")
    assert re.fullmatch("[0-9a-f]{16}", writer)
    assert state == {
        "run_id": RUN_ID,
        "environment": "dev",
        "status": "initialization",
        "current_step": "launch",
        "instance_id": None,
        "instance_type": "g4dn.2xlarge",
        "s3_prefix": f"s3://the-bucket/dev/{RUN_ID}/",
        "timestamps": {"start": "2025-01-15T14:30:22Z", "last_update": "2025-01-15T14:30:22Z"},
        "training_config": {"prediction_length": 64, "context_length": 512},
        "error_message": None,
        "pid": None,
        "control": {"schema_version": 1, "revision": 1, "deadline": "2025-01-15T20:30:22Z", "attempt": 1},
    }


def test_two_launches_in_the_same_second_are_two_writers(settings: Settings) -> None:
    first, second = (first_state(settings, FACTS, NOW, NOW) for _ in range(2))
    assert first["control"]["writer"] != second["control"]["writer"]


# -- config.yaml --------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["local", "dev", "prod"])
def test_the_instance_reads_the_config_that_the_laptop_wrote(environment: str, tmp_path: Path) -> None:
    settings = load_settings(environment, variables={})
    write_launch_files(settings, FACTS, tmp_path, NOW)
    config = load_run_config(tmp_path / "config.yaml")
    assert (config.run_id, config.environment) == (RUN_ID, environment)
    for name in ("accelerator", "trainer", "command", "min_free_disk_gb", "heartbeat_seconds", "seed"):
        assert getattr(config, name) == getattr(settings, name), name
    assert config.training_config == {
        "prediction_length": settings.prediction_length,
        "context_length": settings.context_length,
        "max_steps": settings.max_steps,
        "seed": settings.seed,
    }


def test_the_user_data_names_the_config_by_its_digest(launched: Path) -> None:
    digest = hashlib.sha256((launched / "config.yaml").read_bytes()).hexdigest()
    assert f"CHRONOS_CONFIG_SHA256={digest} " in (launched / "user_data.sh").read_text()


@pytest.mark.parametrize(
    "word", ["two words", "it's", "$(id)", "a\nb", "1", "yes", "- x", "é", "# no", "{config}", ""]
)
def test_a_command_reaches_the_instance_word_for_word(word: str, tmp_path: Path) -> None:
    command = json.dumps(["python", word])
    settings = load_settings("dev", {"trainer": "command", "command": command}, variables={})
    write_launch_files(settings, FACTS, tmp_path, NOW)
    assert load_run_config(tmp_path / "config.yaml").command == ("python", word)


def test_every_setting_at_its_least_is_still_a_config_for_the_instance(tmp_path: Path) -> None:
    least = {"min_free_disk_gb": "0", "heartbeat_seconds": "1", "seed": "0", "max_steps": "1"}
    write_launch_files(load_settings("dev", least, variables={}), FACTS, tmp_path, NOW)
    assert load_run_config(tmp_path / "config.yaml").heartbeat_seconds == 1.0


# -- run.json -----------------------------------------------------------------------------------------


def test_the_record_states_the_intent_and_no_end(launched: Path) -> None:
    record = decoded(launched / "run.json")
    assert set(record) == {
        *("schema_version", "run_id", "environment", "started_at", "requested_by", "config", "git", "ami"),
        *("instance", "pool", "attempts", "deadline", "scripts_sha256", "environment_archive", "dataset"),
        *("ended_at", "outcome", "failed_step", "error", "exit_code", "phases", "metrics", "switches"),
        *("price", "estimate", "cost_usd", "resume_from"),
    }
    assert record["schema_version"] == 1
    assert record["started_at"] == "2025-01-15T14:30:22Z"
    assert record["instance"] == {"id": None, "type": "g4dn.2xlarge", "market": "on-demand"}
    assert record["environment_archive"] == {
        "key": "cached-datasets/python-env/chronos-venv-3.11.tar.gz",
        "sha256": "a" * 64,
        "bytes": 5,
    }
    assert record["dataset"] == {
        "manifest_sha256": "c" * 64,
        "rows": 7,
        "series": 2,
        "files": [{"name": "a.parquet"}],
    }
    assert record["config"]["training_config"]["context_length"] == 512
    assert record["phases"] == []
    ends = ("ended_at", "outcome", "failed_step", "error", "exit_code", "metrics")
    assert [record[name] for name in ends] == [None] * 6


@pytest.mark.parametrize("hours", ["0.05", "0.5", "6", "336"])
def test_every_file_has_the_same_deadline(hours: str, tmp_path: Path) -> None:
    settings = load_settings("dev", {"max_hours": hours}, variables={})
    write_launch_files(settings, FACTS, tmp_path, NOW)
    expected = (NOW + timedelta(hours=float(hours))).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert decoded(tmp_path / "run.json")["deadline"] == expected
    assert decoded(tmp_path / "state.json")["control"]["deadline"] == expected
    user_data = (tmp_path / "user_data.sh").read_text()
    assert f"CHRONOS_DEADLINE={expected} " in user_data
    assert f"\nshutdown -P +{round(float(hours) * 60)}\n" in user_data


def test_the_instance_knows_the_topic_if_there_is_one(settings: Settings) -> None:
    topic = "arn:aws:sns:us-east-1:123456789012:ChronosTraining"
    told = [
        launch_files.user_data_values(settings, facts, NOW)["topic_arn"]
        for facts in (FACTS, {**FACTS, "topic_arn": topic})
    ]
    assert told == ["", topic]


def test_the_switch_in_the_guest_is_never_set_before_the_deadline(settings: Settings) -> None:
    for hours in (0.051, 0.0513, 1.1, 2.3, 5.999):
        values = launch_files.user_data_values(dataclasses.replace(settings, max_hours=hours), FACTS, NOW)
        assert hours * 60 <= values["deadline_minutes"] < hours * 60 + 1


# -- the token ----------------------------------------------------------------------------------------


def test_the_record_names_the_switches_of_the_run(settings: Settings) -> None:
    made = run_record(settings, FACTS, NOW, NOW + timedelta(hours=6))["switches"]
    assert made == {"guest": "2025-01-15T20:30:22Z", "outside": f"chronos-{settings.environment}-{RUN_ID}"}
    without = dataclasses.replace(settings, outside_switch=False)
    assert run_record(without, FACTS, NOW, NOW)["switches"]["outside"] is None


# -- the ladder ---------------------------------------------------------------------------------------


def test_the_pools_are_written_beside_the_record_which_names_none_yet(tmp_path: Path) -> None:
    settings = load_settings("dev", {"market": "spot-then-on-demand"}, variables={})
    write_launch_files(settings, FACTS, tmp_path, NOW)
    pools = json.loads((tmp_path / "pools.json").read_text())
    assert [(pool["zone"], pool["market"]) for pool in pools] == [
        ("us-east-1a", "spot"),
        ("us-east-1a", "on-demand"),
    ]
    record = decoded(tmp_path / "run.json")
    assert (record["pool"], record["attempts"]) == (None, [])
    assert record["instance"]["market"] == "spot"


# -- git ----------------------------------------------------------------------------------------------


def test_git_facts_tell_the_commit_and_whether_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "x")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "x@example.org")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "a repository"
    folder.mkdir()
    assert git_facts(folder) == {"commit": None, "dirty": None}
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    clean = git_facts(folder)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (folder / "new").touch()
    assert git_facts(folder) == {"commit": clean["commit"], "dirty": True}


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_facts(tmp_path) == {"commit": None, "dirty": None}


# -- on the command line ------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    for name in list(os.environ):
        if name.startswith("CHRONOS_"):
            monkeypatch.delenv(name)

    def main(facts: str, *flags: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(facts))
        return launch_files.main(["--env", "dev", "--into", str(tmp_path), *flags])

    return main


def test_the_files_are_written(call: Callable[..., int], tmp_path: Path) -> None:
    assert call(json.dumps(FACTS), "--set", "seed=7") == 0
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        *("user_data.sh", "config.yaml", "run.json", "state.json", "pools.json", "prices.json"),
    }
    assert load_run_config(tmp_path / "config.yaml").seed == 7


@pytest.mark.parametrize(
    ("flags", "facts", "code"),
    [
        (["--set", "sed=7"], json.dumps(FACTS), ExitCode.SETTINGS_INVALID),
        ([], json.dumps({**FACTS, "bucket": "a\nb"}), ExitCode.SETTINGS_INVALID),
        ([], json.dumps({**FACTS, "environment_archive": {}}), ExitCode.NOT_UPLOADED),
        ([], json.dumps({**FACTS, "environment_archive": []}), ExitCode.NOT_UPLOADED),
        (
            [],
            json.dumps({**FACTS, "environment_archive": {"archive": "a.tar.gz", "sha256": "a" * 64}}),
            ExitCode.NOT_UPLOADED,
        ),
        ([], json.dumps({**FACTS, "dataset": {"rows": 1}}), ExitCode.NOT_UPLOADED),
        ([], json.dumps({**FACTS, "dataset": None}), ExitCode.NOT_UPLOADED),
    ],
)
def test_what_cannot_be_launched_ends_with_a_line_and_a_code(
    flags: list[str],
    facts: str,
    code: ExitCode,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(facts, *flags) == code
    said = capsys.readouterr().err
    assert said.startswith("launch: ")
    assert len(said.splitlines()) == 1


# -- the example --------------------------------------------------------------------------------------


def test_the_example_needs_nothing_from_aws(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket", None)
    text = example_user_data(settings, NOW)
    assert f"CHRONOS_RUN_ID={RUN_ID} " in text
    assert text == example_user_data(settings, NOW)
    assert example_user_data(settings).startswith("#!/bin/bash\n")
