from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chronos_ec2.workstation.settings import SETTINGS_FILE, Settings, load_settings

REAL: dict[str, Any] = yaml.safe_load(SETTINGS_FILE.read_text())["chronos"]


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a settings file like the real one, with other defaults and other environments."""

    def write(
        defaults: dict[str, Any] | None = None,
        environments: dict[Any, Any] | None = None,
        without: tuple[str, ...] = (),
        **top: Any,
    ) -> Path:
        chronos = copy.deepcopy(REAL)
        chronos["defaults"] |= defaults or {}
        for key in without:
            del chronos["defaults"][key]
        if environments is not None:
            chronos["environments"] = environments
        file = tmp_path / "invoke.yaml"
        file.write_text(yaml.safe_dump({"chronos": {**chronos, **top}}))
        return file

    return write


@pytest.fixture
def settings() -> Settings:
    return load_settings("dev", variables={})
