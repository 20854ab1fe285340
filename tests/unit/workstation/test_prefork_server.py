"""A forked call answers as one that starts anew: by its caller's settings and the AWS CLI's own models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork import Prefork

FIRST = "[default]\nregion = eu-west-1\n[profile other]\nregion = eu-west-2\n"
SECOND = "[default]\nregion = eu-north-1\naws_access_key_id = AKIASECOND\naws_secret_access_key = secret\n"
BROKEN = "region = of no profile\n"
PLUGGED = "[plugins]\nnone = a_plugin_that_is_not_there\n"


@pytest.fixture(scope="module")
def programs() -> Iterator[Prefork]:
    """One server for all calls."""
    with tempfile.TemporaryDirectory(prefix="p-") as folder:
        made = Prefork(Path(folder))
        yield made
        made.close()


def called(aws: Path, home: Path, words: str, **more: str) -> tuple[bool, str]:
    """Whether a call succeeds, and what it prints."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"} | more
    end = subprocess.run([aws, *words.split()], env=environ, capture_output=True, text=True, timeout=60)
    return end.returncode == 0, end.stdout


def _fresh() -> Path:
    return Path(sys.executable).with_name("aws")


CALLS = [
    (FIRST, "configure get region", {}),
    (FIRST, "configure list", {"AWS_PROFILE": "other"}),
    (SECOND, "configure list", {}),
    ("", "configure list", {"AWS_DEFAULT_REGION": "us-west-2"}),
    (SECOND, "configure list --profile missing", {}),
    (BROKEN, "configure get region", {}),
    (PLUGGED, "configure get region", {}),
    (FIRST, "s3api head-object --bucket b", {}),
]


@pytest.mark.parametrize(("settings", "words", "more"), CALLS)
def test_a_forked_call_is_a_fresh_one(
    programs: Prefork, tmp_path: Path, settings: str, words: str, more: dict[str, str]
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(settings)
    assert called(programs.bin / "aws", tmp_path, words, **more) == called(_fresh(), tmp_path, words, **more)


@pytest.mark.parametrize("command", ["s3api put-object", "s3api copy-object", "ec2 run-instances"])
def test_no_other_call_left_its_arguments(programs: Prefork, tmp_path: Path, command: str) -> None:
    words = f"{command} --generate-cli-skeleton"
    fresh, forked = (called(aws, tmp_path, words)[1] for aws in (_fresh(), programs.bin / "aws"))
    assert list(json.loads(forked)) == list(json.loads(fresh))
