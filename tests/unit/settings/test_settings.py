"""Where a setting's value comes from, and what is said about one that cannot be right."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import SettingsError
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.setting_values import parse_assignments
from chronos_ec2.workstation.settings import (
    KEYS,
    Settings,
    check_environment_name,
    load_settings,
    sibling_environments,
)

Write = Callable[..., Path]


# -- precedence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "variable", "flag", "expected"),
    [
        (False, False, False, "m1.defaults"),
        (True, False, False, "m2.section"),
        (True, True, False, "m3.variable"),
        (True, True, True, "m4.flag"),
        (False, True, False, "m3.variable"),
        (False, False, True, "m4.flag"),
        (True, False, True, "m4.flag"),
        (False, True, True, "m4.flag"),
    ],
)
def test_a_flag_beats_a_variable_beats_the_section_beats_the_defaults(
    section: bool, variable: bool, flag: bool, expected: str, write_file: Write
) -> None:
    file = write_file(
        {"instance_type": "m1.defaults"}, {"dev": {"instance_type": "m2.section"} if section else {}}
    )
    loaded = load_settings(
        "dev",
        {"instance_type": "m4.flag"} if flag else {},
        variables={"CHRONOS_INSTANCE_TYPE": "m3.variable"} if variable else {},
        file=file,
    )
    assert loaded.instance_type == expected


def test_another_environments_section_is_not_read(write_file: Write) -> None:
    file = write_file({"seed": 1}, {"dev": {}, "prod": {"seed": 2}})
    assert load_settings("dev", variables={}, file=file).seed == 1
    assert load_settings("prod", variables={}, file=file).seed == 2


def test_the_environment_itself_is_a_flag_a_variable_or_the_files_default(write_file: Write) -> None:
    file = write_file(environments={"a": {}, "b": {}, "c": {}}, default_environment="c")
    assert load_settings(variables={}, file=file).environment == "c"
    assert load_settings(variables={"CHRONOS_ENV": "b"}, file=file).environment == "b"
    assert load_settings("a", variables={"CHRONOS_ENV": "b"}, file=file).environment == "a"


def test_an_empty_variable_for_the_environment_is_none(write_file: Write) -> None:
    file = write_file(environments={"c": {}}, default_environment="c")
    assert load_settings(variables={"CHRONOS_ENV": ""}, file=file).environment == "c"


def test_an_empty_environment_flag_is_no_name() -> None:
    with pytest.raises(SettingsError, match="'' is not a name"):
        load_settings("", variables={})


# -- the file that ships ------------------------------------------------------------------------------


def test_every_environment_of_the_real_file_loads() -> None:
    local, dev, prod = (load_settings(name, variables={}) for name in ("local", "dev", "prod"))
    assert (local.embedded, dev.embedded, prod.embedded) == (True, False, False)
    assert load_settings(variables={}).environment == "local"


def test_every_setting_of_the_real_file_says_what_it_is() -> None:
    from chronos_ec2.workstation.settings import SETTINGS_FILE

    text = SETTINGS_FILE.read_text()
    defaults = text[text.index("  defaults:") : text.index("  environments:")]
    silent = {"instance_type", "ami_parameter", "seed"}  # their names and values say it
    for key in set(KEYS) - silent:
        line = next(line for line in defaults.splitlines() if line.strip().startswith(f"{key}:"))
        assert " # " in line, f"{key} has no comment"


def test_settings_cannot_be_changed(settings: Settings) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seed = 3  # type: ignore[misc]


# -- unknown keys -------------------------------------------------------------------------------------


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        call()
    return str(caught.value)


def test_an_unknown_key_in_the_defaults_names_file_section_key_and_the_nearest(write_file: Write) -> None:
    said = message_of(lambda: load_settings("dev", variables={}, file=write_file({"instance_typ": "x"})))
    for word in ("invoke.yaml", "chronos.defaults", "'instance_typ'", "did you mean 'instance_type'"):
        assert word in said


def test_an_unknown_key_in_a_section_names_the_section(write_file: Write) -> None:
    file = write_file(environments={"dev": {"volume": 20}})
    said = message_of(lambda: load_settings("dev", variables={}, file=file))
    for word in ("invoke.yaml", "chronos.environments.dev", "'volume'", "did you mean 'volume_gb'"):
        assert word in said


def test_an_unknown_key_near_to_nothing_lists_the_known_ones(write_file: Write) -> None:
    said = message_of(lambda: load_settings("dev", variables={}, file=write_file({"zzz": 1})))
    assert "known: region" in said


def test_an_unknown_flag_names_the_flag_and_the_nearest() -> None:
    said = message_of(lambda: load_settings("dev", {"max_step": "3"}, variables={}))
    assert "--set" in said
    assert "'max_step'" in said
    assert "did you mean 'max_steps'" in said


@pytest.mark.parametrize("slip", ["CHRONOS_INSTANCE_TYP", "CHRONOS_MAX_STEP", "CHRONOS_Region"])
def test_a_variable_that_is_almost_a_setting_names_the_nearest(slip: str) -> None:
    said = message_of(lambda: load_settings("dev", variables={slip: "1"}))
    assert slip in said
    assert "did you mean CHRONOS_" in said


def test_variables_of_other_meaning_are_left_alone() -> None:
    others = (
        "ENV",
        "PYTHON",
        "LOCAL_HOME",
        "LOCAL_PORT",
        "ROOT",
        "RUN_ID",
        "BUCKET",
        "DEADLINE",
        "ENVIRONMENT",
    )
    others += ("DEADLINE_MINUTES", "ENVIRONMENT_ARCHIVE", "ENVIRONMENT_PIECES_SHA256")
    others += ("CONFIG_SHA256", "DATASET_SHA256")
    others += ("LOCAL_SHUTDOWN_GRACE", "WORKSTATION", "VERSION", "LOG", "HOME", "TEST")
    variables = {f"CHRONOS_{name}": "dev" for name in others} | {"PATH": "/bin", "REGION": "x"}
    assert load_settings("dev", variables=variables).environment == "dev"


def test_an_unknown_key_beside_the_sections_is_named(write_file: Write) -> None:
    said = message_of(lambda: load_settings("dev", variables={}, file=write_file(default={})))
    assert "chronos.default is not known" in said


def test_a_setting_that_the_file_lacks_is_named(write_file: Write) -> None:
    said = message_of(lambda: load_settings("dev", variables={}, file=write_file(without=("seed", "region"))))
    assert "lacks region, seed" in said


# -- types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("volume_gb", "30"),
        ("volume_gb", 30.0),
        ("volume_gb", True),
        ("volume_gb", None),
        ("seed", [1]),
        ("region", 5),
        ("region", None),
        ("embedded", "yes"),
        ("embedded", 1),
        ("max_hours", "6"),
        ("max_hours", True),
        ("max_hours", 10**400),
        ("command", "python train.py"),
        ("command", ["python", 3]),
        ("command", None),
        ("aws_profile", None),
    ],
)
def test_a_value_of_another_type_in_the_file_names_file_and_key(
    key: str, wrong: Any, write_file: Write
) -> None:
    said = message_of(lambda: load_settings("dev", variables={}, file=write_file({key: wrong})))
    assert f"chronos.defaults.{key}" in said
    assert "invoke.yaml" in said


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("volume_gb", "30 GB"),
        ("volume_gb", "30.5"),
        ("volume_gb", ""),
        ("volume_gb", "9" * 5000),
        ("max_hours", "six"),
        ("embedded", "maybe"),
        ("embedded", ""),
        ("command", "python train.py"),
        ("command", '["python", 3]'),
        ("command", '{"a": "b"}'),
        ("command", "[" * 100_000),
    ],
)
def test_a_text_that_is_no_value_names_its_flag_or_variable(key: str, text: str) -> None:
    assert f"--set {key}" in message_of(lambda: load_settings("dev", {key: text}, variables={}))
    name = f"CHRONOS_{key.upper()}"
    assert name in message_of(lambda: load_settings("dev", variables={name: text}))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("volume_gb", "30", 30),
        ("max_hours", "1.5", 1.5),
        ("max_cost_usd", "5", 5.0),
        ("max_hours", "2", 2.0),
        ("embedded", "TRUE", True),
        ("embedded", "0", False),
        ("embedded", "no", False),
        ("command", '["python", "-m", "a b"]', ("python", "-m", "a b")),
        ("command", "[]", ()),
        ("aws_profile", "", ""),
        ("notify_email", "", ""),
        ("fallback_instance_types", '["g5.xlarge", "g6.xlarge"]', ("g5.xlarge", "g6.xlarge")),
        ("fallback_instance_types", "[]", ()),
        ("market", "spot-then-on-demand", "spot-then-on-demand"),
        ("spot_max_price", "0.52", "0.52"),
        ("spot_max_price", "", ""),
        ("wait_for_capacity_minutes", "1.5", 1.5),
        ("notify_email", "ana.b+chronos@mail.example.org", "ana.b+chronos@mail.example.org"),
        ("ami_name", "a=b # c", "a=b # c"),
    ],
)
def test_a_text_becomes_the_type_of_its_setting(key: str, text: str, value: Any) -> None:
    for loaded in (
        load_settings("dev", {key: text}, variables={}),
        load_settings("dev", variables={f"CHRONOS_{key.upper()}": text}),
    ):
        assert getattr(loaded, key) == value
        assert type(getattr(loaded, key)) is type(value)


def test_a_whole_number_of_hours_in_the_file_is_a_float(write_file: Write) -> None:
    hours = load_settings("dev", variables={}, file=write_file({"max_hours": 3})).max_hours
    assert (hours, type(hours)) == (3.0, float)


# -- ranges -------------------------------------------------------------------------------------------

LEAST = {
    "availability_zones": 1,
    "alarm_hours": 0,
    "volume_gb": 8,
    "min_free_disk_gb": 0,
    "heartbeat_seconds": 1,
    "log_upload_seconds": 1,
    "kill_grace_seconds": 0,
    "nodes": 1,
    "keep_on_failure_minutes": 0,
    "stale_minutes": 3,
    "sample_seconds": 1,
    "idle_gpu_minutes": 0,
    "claim_patience_seconds": 0,
    "log_retention_days": 1,
    "glacier_after_days": 1,
    "prediction_length": 1,
    "context_length": 1,
    "max_steps": 1,
    "checkpoint_every_steps": 0,
    "processes": 0,
    "seed": 0,
}


def test_every_whole_number_has_a_least_value() -> None:
    whole = {field.name for field in dataclasses.fields(Settings) if field.type == "int"}
    assert whole == set(LEAST)


@pytest.mark.parametrize("key", LEAST)
def test_a_number_under_its_least_is_refused(key: str) -> None:
    assert getattr(load_settings("dev", {key: str(LEAST[key])}, variables={}), key) == LEAST[key]
    said = message_of(lambda: load_settings("dev", {key: str(LEAST[key] - 1)}, variables={}))
    assert f"{key}: got {LEAST[key] - 1}, need at least {LEAST[key]}" in said


def test_a_machine_may_be_silent_between_two_heartbeats() -> None:
    assert load_settings("dev", {"stale_minutes": "21", "heartbeat_seconds": "600"}, variables={})
    said = message_of(
        lambda: load_settings("dev", {"stale_minutes": "20", "heartbeat_seconds": "600"}, variables={})
    )
    assert "stale_minutes: got 20, need more than two heartbeats (1200 s" in said


@pytest.mark.parametrize("hours", ["0.05", "336"])
def test_hours_up_to_the_limits(hours: str) -> None:
    assert load_settings("dev", {"max_hours": hours}, variables={}).max_hours == float(hours)


@pytest.mark.parametrize("hours", ["0", "-1", "0.049", "336.1", "inf", "-inf", "nan", "1e999"])
def test_hours_past_the_limits_are_refused(hours: str) -> None:
    assert "max_hours: got" in message_of(lambda: load_settings("dev", {"max_hours": hours}, variables={}))


@pytest.mark.parametrize("usd", ["-0.01", "1000001", "nan", "inf"])
def test_a_cap_on_the_cost_is_a_sum_of_money(usd: str) -> None:
    wrong = message_of(lambda: load_settings("dev", {"max_cost_usd": usd}, variables={}))
    assert "max_cost_usd: got" in wrong


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("accelerator", "gpu"),
        ("accelerator", ""),
        ("trainer", "chronos2"),
        ("region", "us-east"),
        ("region", "us-east-1\n"),
        ("region", "us-east-\N{ARABIC-INDIC DIGIT ONE}"),
        ("region", ""),
        ("aws_profile", "my profile; rm"),
        ("instance_type", "g4dn"),
        ("instance_type", "g4dn.$(id)"),
        ("ami_id", "ami-XYZ"),
        ("ami_id", "latest"),
        ("fallback_instance_types", '["g5"]'),
        ("fallback_instance_types", '["g5.xlarge", ""]'),
        ("market", "ondemand"),
        ("market", ""),
        ("spot_max_price", "$0.50"),
        ("spot_max_price", "-1"),
        ("spot_max_price", "0.00"),
        ("spot_max_price", "1e3"),
        ("wait_for_capacity_minutes", "-1"),
        ("wait_for_capacity_minutes", "10081"),
        ("wait_for_capacity_minutes", "nan"),
        ("notify_email", "ana"),
        ("notify_email", "ana@host"),
        ("notify_email", "ana@example.org,bob@example.org"),
        ("notify_email", "ana@example.org\n"),
        ("notify_email", "$(id)@example.org"),
    ],
)
def test_a_text_of_another_form_is_refused(key: str, wrong: str) -> None:
    said = message_of(lambda: load_settings("dev", {key: wrong}, variables={}))
    assert f"{key}: " in said


def test_a_launch_that_waits_needs_a_claim_that_lasts() -> None:
    waiting = {"wait_for_capacity_minutes": "5"}
    assert load_settings("dev", {**waiting, "claim_patience_seconds": "120"}, variables={})
    said = message_of(
        lambda: load_settings("dev", {**waiting, "claim_patience_seconds": "119"}, variables={})
    )
    assert "claim_patience_seconds: got 119, need at least 120" in said
    assert "'dev'" in said


def test_training_settings_come_one_by_one_from_every_layer(write_file: Write) -> None:
    file = write_file(
        {"training": {"learning_rate": 0.1, "warmup_steps": 1}},
        {"dev": {"training": {"warmup_steps": 2, "batch_size": 8}}},
    )
    flags = {"training.batch_size": "16", "training.model_config": "{num_layers: 3}"}
    loaded = load_settings("dev", flags, variables={}, file=file)
    assert loaded.training == {
        "learning_rate": 0.1,
        "warmup_steps": 2,
        "batch_size": 16,
        "model_config": {"num_layers": 3},
    }
    assert loaded.training_config()["prediction_length"] == loaded.prediction_length


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"training.learning_rte": "1"}, "training.learning_rte is unknown; did you mean learning_rate?"),
        ({"training.learning_rate": "fast"}, "training.learning_rate must be a number above 0, not 'fast'"),
        ({"training.max_steps": "5"}, "training.max_steps: it has a setting of its own, max_steps"),
        ({"training.save_steps": "5"}, "it has a setting of its own, checkpoint_every_steps"),
        ({"training.num_steps": "5"}, "training.num_steps: it has a setting of its own, max_steps"),
        (
            {"training.model_id": "s3://b/m", "training.model_size": "mini"},
            "model_size is for random weights, the model that model_id names has its own sizes",
        ),
        (
            {"training.model_id": "s3://b/m", "training.model_config": "{dropout_rate: 0.2}"},
            "model_config is for random weights",
        ),
        ({"training.model_config": "{d_kv: 7}"}, "model_config.d_kv must be even"),
        ({"context_length": "1048577"}, "context_length must be a whole number from 1 to 1048576"),
        ({"prediction_length": "1048577"}, "prediction_length must be a whole number from 1 to 1048576"),
        ({"training.bf16": "true"}, "training.bf16 is unknown; precision: bf16 computes in it"),
        ({"training.per_device_train_batch_size": "5"}, "batch_size is the number of windows of all devices"),
        ({"training": "[1]"}, "--set training: expected a mapping, got list"),
        ({"training": "{"}, "'{' is not YAML"),
        ({"trainer": "test", "training.model_size": "mini"}, "training.model_size is unknown"),
    ],
)
def test_a_wrong_training_setting_is_refused_before_anything_is_rented(
    flags: dict[str, str], says: str
) -> None:
    assert says in message_of(lambda: load_settings("dev", flags, variables={}))


@pytest.mark.parametrize(
    ("flags", "takes"),
    [
        ({"nodes": "3"}, 33),
        ({"processes": "3"}, 33),
        ({"nodes": "3", "processes": "2"}, 36),
        ({"nodes": "2", "training.gradient_accumulation_steps": "32"}, 64),
        ({"nodes": "2", "training.batch_size": "3"}, 4),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_rented(
    flags: dict[str, str], takes: int
) -> None:
    given = {"instance_type": "m5.large", **flags}
    said = message_of(lambda: load_settings("dev", given, variables={}))
    assert "training.batch_size: got" in said and said.endswith(f": take {takes}")
    loaded = load_settings("dev", {**given, "training.batch_size": str(takes)}, variables={})
    assert loaded.training["batch_size"] == takes
    other = {"trainer": "command", "command": '["x"]'}
    assert load_settings("dev", {**given, **other}, variables={})


def test_a_command_of_ones_own_may_have_any_training_setting() -> None:
    flags = {"trainer": "command", "command": '["x"]', "training.anything": "goes"}
    assert load_settings("dev", flags, variables={}).training_config()["anything"] == "goes"


def test_the_command_trainer_needs_a_command() -> None:
    assert "command" in message_of(lambda: load_settings("dev", {"trainer": "command"}, variables={}))
    given = {"trainer": "command", "command": '["python", "train.py"]'}
    assert load_settings("dev", given, variables={}).trainer == "command"


# -- environments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "dev", "local", "team-7", "x" * 32, "a-", "log", "logs2"])
def test_a_name_of_an_environment(name: str) -> None:
    assert check_environment_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x;rm -rf ~",
        "Dev",
        "7dev",
        "-dev",
        "dev_1",
        "dev\n",
        "dev ",
        "x" * 33,
        "../dev",
        "dev/x",
        "d\N{LATIN SMALL LETTER E WITH ACUTE}v",
        "dev\N{ARABIC-INDIC DIGIT ONE}",
        "$(id)",
        "dev\x00",
        "logs",
        "cached-datasets",
    ],
)
def test_what_is_no_name_of_an_environment(name: str) -> None:
    said = message_of(lambda: check_environment_name(name))
    assert repr(name) in said
    message_of(lambda: load_settings(name, variables={}))


def test_an_environment_that_the_file_does_not_know_is_named_with_the_known_ones() -> None:
    said = message_of(lambda: load_settings("staging", variables={}))
    assert "'staging' is not in invoke.yaml; known: dev, local, prod" in said


def test_names_that_yaml_takes_for_something_else_do_not_break_the_message(write_file: Write) -> None:
    file = write_file(environments={False: {}, 7: {}, "dev": {}})
    said = message_of(lambda: load_settings("staging", variables={}, file=file))
    assert "dev" in said


def test_environments_of_the_same_account_and_region_share_the_stack(write_file: Write) -> None:
    file = write_file(
        environments={
            "dev": {},
            "prod": {"instance_type": "g5.2xlarge"},
            "far": {"region": "eu-west-1"},
            "other": {"aws_profile": "other"},
            "local": {"embedded": True},
        }
    )

    def siblings(name: str, **variables: str) -> list[str]:
        loaded = load_settings(name, variables=variables, file=file)
        return sibling_environments(loaded, variables=variables, file=file)

    assert siblings("dev") == siblings("prod") == ["dev", "prod"]
    assert siblings("far") == ["far"]
    assert siblings("other") == ["other"]
    assert siblings("local") == ["local"]


def test_a_variable_moves_all_environments_of_the_file_and_takes_no_rights_from_any(
    write_file: Write,
) -> None:
    file = write_file(environments={"dev": {}, "prod": {}})
    variables = {"CHRONOS_REGION": "eu-west-1"}
    loaded = load_settings("dev", variables=variables, file=file)
    assert sibling_environments(loaded, variables=variables, file=file) == ["dev", "prod"]


# -- the file itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chronos:",
        "chronos: []",
        "[]",
        "a: b",
        "chronos: {defaults: 5}",
        "chronos: {environments: [dev]}",
        "chronos: {environments: {dev: 5}}",
        "chronos: {default_environment: [a]}",
        "chronos: {1: 2}",
        "{",
        "\t",
        "chronos: &a {defaults: *b}",
        "x: 2025-99-99",
        "x: !!int ''",
        "x: !!python/object:os.system {}",
        "x: 0x" + "f" * 10,
        "x: " + "9" * 5000,
        "[" * 3000,
        "? [a]\n: b",
    ],
)
def test_a_file_that_is_no_settings_file_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "invoke.yaml"
    file.write_text(text)
    assert "invoke.yaml" in message_of(lambda: load_settings("dev", variables={}, file=file))


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "invoke.yaml"
    assert "invoke.yaml cannot be read" in message_of(
        lambda: load_settings("dev", variables={}, file=missing)
    )
    missing.write_bytes(b"\xff\xfe\x00")
    assert "invoke.yaml cannot be read" in message_of(
        lambda: load_settings("dev", variables={}, file=missing)
    )


# -- on the command line ------------------------------------------------------------------------------


def test_assignments_are_split_at_the_first_equals_sign() -> None:
    assert parse_assignments(["a=b", "c=d=e", "f=", "a=last"]) == {"a": "last", "c": "d=e", "f": ""}


def test_an_assignment_without_an_equals_sign_is_named() -> None:
    assert "'seed'" in message_of(lambda: parse_assignments(["seed"]))


def run_module(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CHRONOS_")}
    argv = [sys.executable, "-m", "chronos_ec2.workstation.settings", *arguments]
    return subprocess.run(argv, env={**kept, **variables}, capture_output=True, text=True, check=False)


def test_bash_gets_the_settings_as_json() -> None:
    done = run_module("--env", "dev", "--set", "seed=7", CHRONOS_SEED="3", CHRONOS_MAX_STEPS="5")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {*KEYS, "environment"}
    assert (found["environment"], found["seed"], found["max_steps"]) == ("dev", 7, 5)


@pytest.mark.parametrize(
    "arguments", [("--env", "x;rm -rf ~"), ("--env", "dev", "--set", "sed=1"), ("--set", "seed")]
)
def test_a_wrong_setting_ends_with_a_line_of_text_and_its_code(arguments: tuple[str, ...]) -> None:
    done = run_module(*arguments)
    assert done.returncode == ExitCode.SETTINGS_INVALID
    assert done.stdout == ""
    assert done.stderr.startswith("settings: ")
    assert "Traceback" not in done.stderr
