"""`launch --resume`: what a run can go on from, and why it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chronos_ec2.errors import NoSuchRun, SettingsError, StorageDenied, UsageProblem
from chronos_ec2.workstation import resume
from chronos_ec2.workstation.launch_files import run_config
from chronos_ec2.workstation.resume import check_resume
from chronos_ec2.workstation.settings import Settings, load_settings

RUN = "2025-01-15-143022"
DATA = "d" * 64


def settings_with(**changes: str) -> Settings:
    return load_settings("dev", {"max_steps": "500", **changes}, variables={})


def put_interrupted(world: Any, *steps: int, **changes: Any) -> None:
    """A run that was interrupted after it had saved at some steps."""
    record = {
        "run_id": RUN,
        "outcome": "interrupted",
        "config": run_config(settings_with(), RUN),
        "dataset": {"manifest_sha256": DATA},
        "environment_archive": {"sha256": "e" * 64},
        **changes,
    }
    world.put(f"dev/{RUN}/run.json", record)
    for step in steps:
        folder = f"dev/{RUN}/checkpoints/checkpoint-{step}"
        world.put(f"{folder}/state.npz", b"weights")
        files = {"state.npz": {"bytes": 7, "sha256": "0" * 64}}
        world.put(f"{folder}/manifest.json", {"step": step, "files": files})


def check(world: Any, settings: Settings | None = None, run: str = RUN, data: str = DATA) -> dict[str, Any]:
    return check_resume(world.s3, world.bucket, settings or settings_with(), run, dataset_sha256=data)


def test_the_newest_whole_checkpoint_is_named(world: Any) -> None:
    put_interrupted(world, 90, 100)
    assert check(world) == {"run_id": RUN, "step": 100, "environment_sha256": "e" * 64}


@pytest.mark.parametrize("broken", ["short", "missing", "no manifest", "no json"])
def test_one_that_is_not_whole_is_passed_over(world: Any, broken: str) -> None:
    put_interrupted(world, 90, 100)
    folder = f"dev/{RUN}/checkpoints/checkpoint-100"
    if broken == "short":
        world.put(f"{folder}/state.npz", b"half")
    elif broken == "missing":
        world.real_s3.delete_object(Bucket=world.bucket, Key=f"{folder}/state.npz")
    elif broken == "no manifest":
        world.real_s3.delete_object(Bucket=world.bucket, Key=f"{folder}/manifest.json")
    else:
        world.put(f"{folder}/manifest.json", "{")
    assert check(world)["step"] == 90


def test_without_a_whole_checkpoint_there_is_nothing_to_go_on_from(world: Any) -> None:
    put_interrupted(world, 100)
    world.put(f"dev/{RUN}/checkpoints/checkpoint-100/state.npz", b"half")
    with pytest.raises(NoSuchRun, match=r"state.npz has 4 bytes of 7.*launch without --resume"):
        check(world)


@pytest.mark.parametrize(
    "part",
    [{"config": "x"}, {"config": {"training_config": [1]}}, {"dataset": "x"}, {"dataset": [1]}],
    ids=str,
)
def test_a_record_whose_parts_are_of_another_form_is_refused(world: Any, part: dict[str, Any]) -> None:
    put_interrupted(world, 100, **part)
    with pytest.raises(SettingsError, match="cannot go on as another one"):
        check(world)


def test_a_run_of_another_environment_is_none(world: Any) -> None:
    put_interrupted(world, 100)
    with pytest.raises(NoSuchRun, match="environment prod has had no run yet"):
        check(world, load_settings("prod", {}, variables={}))
    with pytest.raises(NoSuchRun, match=f"has no run 2025-01-01-000000; it has {RUN}"):
        check(world, run="2025-01-01-000000")
    with pytest.raises(UsageProblem, match="expected UTC"):
        check(world, run="../x")


def test_a_run_that_has_succeeded_is_done(world: Any) -> None:
    put_interrupted(world, 500, outcome="succeeded")
    with pytest.raises(UsageProblem, match="nothing to go on with: invoke fetch"):
        check(world)


def test_other_settings_are_refused_each_by_name_with_the_flags_that_bring_them_back(world: Any) -> None:
    put_interrupted(world, 100)
    other = settings_with(max_steps="600", seed="3", trainer="command", command='["my", "trainer"]')
    with pytest.raises(SettingsError) as refused:
        check(world, other, data="f" * 64)
    said = str(refused.value)
    for words in (
        "max_steps is 600 and was 500",
        "seed is 3 and was 0",
        'trainer is "command" and was "chronos"',
        "the training data are others (their manifest's sha256 begins ffffffff and began dddddddd",
        "--set max_steps=500",
        "--set trainer=chronos --set 'command=[]'",
    ):
        assert words in said, said


def test_the_flags_that_bring_settings_back_are_settings(world: Any) -> None:
    put_interrupted(world, 100, config=run_config(settings_with(**{"training.learning_rate": "0.01"}), RUN))
    with pytest.raises(SettingsError, match=r"add --set training\.learning_rate=0\.01$"):
        check(world, settings_with(**{"training.learning_rate": "0.02"}))
    put_interrupted(world, 100)
    with pytest.raises(SettingsError, match=r"; leave training\.learning_rate out$"):
        check(world, settings_with(**{"training.learning_rate": "0.02"}))


def test_a_number_is_the_same_however_it_is_written(world: Any) -> None:
    put_interrupted(world, 100, config=run_config(settings_with(**{"training.learning_rate": "0.0001"}), RUN))
    assert check(world, settings_with(**{"training.learning_rate": "1e-4"}))["step"] == 100


def test_what_does_not_change_the_result_may_differ(world: Any) -> None:
    put_interrupted(world, 100)
    more = {"instance_type": "g5.xlarge", "max_hours": "2", "market": "spot", "checkpoint_every_steps": "9"}
    assert check(world, settings_with(**more))["step"] == 100


@pytest.mark.parametrize("key", ["eval_series", "gradient_accumulation_steps", "log_steps", "torch_compile"])
def test_what_the_trainer_lets_change_may_change(world: Any, key: str) -> None:
    put_interrupted(world, 100)
    value = "true" if key == "torch_compile" else "2"
    assert check(world, settings_with(**{f"training.{key}": value}))["step"] == 100


@pytest.mark.parametrize(
    "written",
    [{"training.batch_size": "32"}, {"training.target": "[target]"}, {"training.model_id": "random"}],
)
def test_a_default_is_the_same_written_out_and_left_out(world: Any, written: dict[str, str]) -> None:
    put_interrupted(world, 100, config=run_config(settings_with(**written), RUN))
    assert check(world)["step"] == 100
    put_interrupted(world, 100)
    assert check(world, settings_with(**written))["step"] == 100


def test_a_setting_of_a_run_that_an_older_version_made_counts_as_it_stands(world: Any) -> None:
    config = run_config(settings_with(), RUN)
    config["training_config"]["given_up"] = 1
    put_interrupted(world, 100, config=config)
    with pytest.raises(SettingsError, match="cannot go on as another one: given_up is not set and was 1"):
        check(world)


def test_a_precision_is_named_where_it_was_left_to_the_machine_and_otherwise_kept(world: Any) -> None:
    put_interrupted(world, 100)
    bf16 = {"training.precision": "bf16"}
    assert check(world, settings_with(**bf16))["step"] == 100
    put_interrupted(world, 100, config=run_config(settings_with(**bf16), RUN))
    assert check(world, settings_with(**{"training.precision": "auto"}))["step"] == 100
    with pytest.raises(
        SettingsError, match=r'precision is "fp32" and was "bf16"; for .*--set training\.precision=bf16'
    ):
        check(world, settings_with(**{"training.precision": "fp32"}))
    command = {"trainer": "command", "command": '["x"]'}
    put_interrupted(world, 100, config=run_config(settings_with(**command), RUN))
    with pytest.raises(SettingsError, match="precision is"):
        check(world, settings_with(**command, **bf16))


def test_a_refusal_of_s3_is_no_absence(world: Any) -> None:
    put_interrupted(world, 100)
    world.s3.fail("get_paginator", "AccessDenied")
    with pytest.raises(StorageDenied):
        check(world)


def test_the_command_line(
    world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_interrupted(world, 100)
    monkeypatch.setattr(resume, "_client", lambda: world.s3)
    words = ["--env", "dev", "--set", "max_steps=500", "--bucket", world.bucket, "--run-id", RUN]
    words += ["--dataset-sha256", DATA, "--environment-sha256"]
    assert resume.main([*words, "e" * 64]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"run_id": RUN, "step": 100} and said.err == ""
    assert resume.main([*words, "0" * 64]) == 0
    assert "the training environment is another one than then" in capsys.readouterr().err
    words[3] = "max_steps=400"
    assert resume.main([*words, "e" * 64]) == 26
    said = capsys.readouterr()
    assert said.out == "" and "max_steps is 400 and was 500" in said.err
