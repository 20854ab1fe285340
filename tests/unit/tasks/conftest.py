from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from chronos_ec2.workstation.settings import REPOSITORY, Settings, load_settings

INVOKE = Path(sys.executable).with_name("invoke")


def load_tasks() -> ModuleType:
    """The repository's tasks.py; `import tasks` would find this package of tests."""
    spec = importlib.util.spec_from_file_location("chronos_tasks", REPOSITORY / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    for name in [name for name in sys.modules if name.partition(".")[0] == "verbs"]:
        del sys.modules[name]  # a task that was asked for its arguments has given its help away
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tasks() -> ModuleType:
    return load_tasks()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no AWS from outside reaches a test."""
    for name in list(os.environ):
        if name.startswith(("CHRONOS_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHRONOS_LOCAL_HOME", str(tmp_path / "no embedded AWS"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def invoke() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `invoke` as a person would."""

    def call(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(INVOKE), *words],
            cwd=REPOSITORY,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return call


@pytest.fixture
def local() -> Settings:
    return load_settings("local", variables={})


@pytest.fixture
def dev() -> Settings:
    return load_settings("dev", variables={})
