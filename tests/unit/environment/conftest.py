"""The real environment, built where `invoke build-env` builds it, and a tiny one with a single package."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from chronos_ec2.workstation.environment_build import BuiltEnvironment, build_environment

REPO = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class TinyEnvironment:
    built: BuiltEnvironment
    lock: Path
    unpacked: Path


@pytest.fixture(scope="session")
def cpu_environment() -> BuiltEnvironment:
    """The environment of the demo; about 20 s when it has never been built, nothing after that."""
    lock = REPO / "requirements" / "instance-test.lock"
    return build_environment(lock, REPO / ".chronos" / "env" / lock.stem, say=print)


@pytest.fixture(scope="session")
def tiny_environment(tmp_path_factory: pytest.TempPathFactory) -> TinyEnvironment:
    folder = tmp_path_factory.mktemp("tiny environment")
    lock = folder / "tiny.lock"
    lock.write_text("six==1.17.0\n")
    built = build_environment(lock, folder / "env", say=print, archive_format="tar.gz")
    unpacked = folder / "un packed"
    unpacked.mkdir()
    subprocess.run(["tar", "xzf", built.archive, "-C", unpacked], check=True)
    return TinyEnvironment(built, lock, unpacked)
