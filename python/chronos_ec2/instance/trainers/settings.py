"""A trainer's settings, read from the run's config.yaml.

Keys beside `training_config` belong to the run and are not looked at, but for `seed`, which stands in when
`training_config` has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from chronos_ec2.errors import SettingsError
from chronos_ec2.training_settings import read_training_config

Config = TypeVar("Config")


def load_config(path: Path, config: type[Config]) -> Config:
    """Read `training_config` from a YAML (or JSON) file.

    Args:
        path: the run's config.yaml.
        config: the trainer's settings class.

    Returns:
        The settings, each missing one at its default.

    Raises:
        SettingsError: the file cannot be read or is not YAML, or a key is unknown or has a wrong value.
    """
    top = _mapping(_document(path), f"{path}: a mapping of settings was expected")
    given = _mapping(top.get("training_config"), f"{path}: training_config must be a mapping")
    if top.get("seed") is not None:
        given = {"seed": top["seed"], **given}
    return read_training_config(config, given, f"{path}: training_config")


def _document(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "--config names the run's config.yaml"
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); {hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"{path}: not YAML ({where})") from None


def _mapping(value: Any, expected: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "a yes/no value"}.get(type(value), "a number")
        raise SettingsError(f"{expected}, not {kind}")
    return value
