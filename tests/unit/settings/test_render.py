"""User data: every text quoted, nothing left out, nothing too long, the same for the same values."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.render import USER_DATA_LIMIT, render_user_data, shell_quote
from chronos_ec2.workstation.settings import REPOSITORY

VALUES: dict[str, Any] = {
    "run_id": "2025-01-15-143022",
    "environment": "dev",
    "bucket": "the-bucket",
    "region": "us-east-1",
    "deadline": "2025-01-15T20:30:22Z",
    "deadline_minutes": 360,
    "accelerator": "cuda",
    "min_free_disk_gb": 20,
    "heartbeat_seconds": 15,
    "log_upload_seconds": 10,
    "kill_grace_seconds": 90,
    "keep_on_failure_minutes": 0,
    "environment_archive": "chronos-venv-3.11.tar.gz",
    "environment_pieces_sha256": "a" * 64,
    "scripts_sha256": "b" * 64,
    "config_sha256": "d" * 64,
    "dataset_sha256": "c" * 64,
    "resume_from": "2025-01-14-000000",
    "start_model": "s3://chronos-training-dev/cached-datasets/models/0123/",
    "topic_arn": "arn:aws:sns:us-east-1:123456789012:ChronosTraining",
    "stale_minutes": 15,
    "sample_seconds": 5,
    "idle_gpu_minutes": 20,
    "idle_gpu_action": "tell",
    "nodes": 2,
}
TEXTS = [name for name, value in VALUES.items() if isinstance(value, str)]
VARIABLES = {
    "run_id": "CHRONOS_RUN_ID",
    "environment": "CHRONOS_ENV",
    "bucket": "CHRONOS_BUCKET",
    "region": "AWS_DEFAULT_REGION",
    "deadline": "CHRONOS_DEADLINE",
    "accelerator": "CHRONOS_ACCELERATOR",
    "environment_archive": "CHRONOS_ENVIRONMENT_ARCHIVE",
    "environment_pieces_sha256": "CHRONOS_ENVIRONMENT_PIECES_SHA256",
    "config_sha256": "CHRONOS_CONFIG_SHA256",
    "dataset_sha256": "CHRONOS_DATASET_SHA256",
    "resume_from": "CHRONOS_RESUME_FROM",
    "start_model": "CHRONOS_START_MODEL",
    "topic_arn": "CHRONOS_TOPIC_ARN",
    "idle_gpu_action": "CHRONOS_IDLE_GPU_ACTION",
}
NASTY = [
    "two words",
    "it's",
    'say "hi"',
    "$(touch canary)",
    "`touch canary`",
    "x; touch canary",
    "x && touch canary #",
    "$HOME ${PATH}",
    "back\\slash",
    "*",
    "~root",
    "{{ bucket }}",
    "é",
    "",
]


def exports_of(text: str, folder: Path) -> dict[str, str]:
    """What bash exports when it runs the `export` lines alone."""
    lines = [line for line in text.splitlines() if line.startswith("export ")]
    script = "\n".join([*lines, "env -0"])
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        env={"PATH": "/usr/bin:/bin"},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if "=" in item)


def test_the_exports_say_what_was_asked_for(tmp_path: Path) -> None:
    found = exports_of(render_user_data(VALUES), tmp_path)
    assert {name: found[variable] for name, variable in VARIABLES.items()} == {
        name: VALUES[name] for name in VARIABLES
    }
    assert found["CHRONOS_DEADLINE_MINUTES"] == "360"
    assert found["CHRONOS_HEARTBEAT_SECONDS"] == "15"


@pytest.mark.parametrize("value", NASTY)
def test_no_text_is_ever_more_than_a_text(value: str, tmp_path: Path) -> None:
    text = render_user_data({**VALUES, **dict.fromkeys(TEXTS, value)})
    found = exports_of(text, tmp_path)
    assert {found[variable] for variable in VARIABLES.values()} == {value}
    assert list(tmp_path.iterdir()) == []
    checked = subprocess.run(["/bin/bash", "-n"], input=text.encode(), capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("value", ["a\nb", "a\n", "\ttab", "nul\0", "\x1b[2J", "\x7f", "a\rb"])
def test_a_control_character_is_refused_wherever_it_stands(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="control character"):
        render_user_data({**VALUES, name: value})


@pytest.mark.parametrize("name", VALUES)
def test_a_missing_value_is_an_error_and_no_gap(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match=name):
        render_user_data({key: value for key, value in VALUES.items() if key != name})


def test_the_limit_is_ec2s() -> None:
    assert USER_DATA_LIMIT == 16_384


def test_user_data_up_to_the_limit_and_not_a_byte_more() -> None:
    room = USER_DATA_LIMIT - len(render_user_data({**VALUES, "bucket": ""}).encode()) + len("''")
    assert len(render_user_data({**VALUES, "bucket": "x" * room}).encode()) == USER_DATA_LIMIT
    with pytest.raises(
        SettingsError, match=f"user data is {USER_DATA_LIMIT + 1} bytes; EC2 takes {USER_DATA_LIMIT}"
    ):
        render_user_data({**VALUES, "bucket": "x" * (room + 1)})


def test_the_limit_counts_bytes_and_not_characters() -> None:
    with pytest.raises(SettingsError, match="EC2 takes"):
        render_user_data({**VALUES, "bucket": "é" * (USER_DATA_LIMIT // 2)})


def test_ordinary_user_data_is_well_under_the_limit() -> None:
    assert len(render_user_data(VALUES).encode()) < USER_DATA_LIMIT / 3


def test_the_same_values_give_the_same_user_data() -> None:
    assert render_user_data(VALUES) == render_user_data(dict(reversed(VALUES.items())))


def test_the_template_leaves_nothing_unfilled_and_ends_its_last_line() -> None:
    text = render_user_data(VALUES)
    assert text.startswith("#!/bin/bash\n")
    assert text.endswith("\n")
    assert not re.search(r"\{\{|\}\}|\{%", text)


def test_every_text_of_the_template_goes_through_the_one_filter() -> None:
    template = (REPOSITORY / "templates" / "user_data.sh.j2").read_text()
    code = "\n".join(line for line in template.splitlines() if not line.startswith("#"))
    bare = set(re.findall(r"\{\{ (\w+) \}\}", code))
    assert all(isinstance(VALUES[name], int) for name in bare), bare
    assert "{%" not in template, "no logic around shell"


def test_the_machine_that_was_launched_finds_its_own_run_in_its_user_data() -> None:
    """The template's guard greps for this very text, so a run id must stay without quotes."""
    assert f"CHRONOS_RUN_ID={VALUES['run_id']} " in render_user_data(VALUES)


def test_no_secret_is_asked_for() -> None:
    assert not re.search("secret|password|access_key", render_user_data(VALUES), re.IGNORECASE)


@hypothesis_settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_a_quoted_text_is_one_word_with_the_same_letters(value: str) -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"printf %s {shell_quote(value)}"], env={"LC_ALL": "C.UTF-8"}, capture_output=True
    )
    assert done.stdout.decode() == value
