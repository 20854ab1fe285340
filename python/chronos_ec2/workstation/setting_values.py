"""The value of one setting, from the settings file's YAML or from the text of a flag or a variable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_origin

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.plain_yaml import load_yaml


def as_mapping(value: object, where: str) -> dict[str, Any]:
    """A mapping; nothing is an empty one.

    Raises:
        SettingsError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: expected a mapping, got {type(value).__name__}")
    return value


def from_yaml(wanted: Any, value: object, where: str) -> Any:
    """A value of the settings file, which has a YAML type.

    Args:
        wanted: the setting's annotation.
        where: names the setting and where it stands.

    Raises:
        SettingsError: it is of another type.
    """
    if get_origin(wanted) is Mapping:
        return as_mapping(value, where)
    if get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise SettingsError(f"{where}: expected a list of strings, got {value!r}")
    if wanted is float and type(value) is int and abs(value) < 1e308:
        return float(value)
    if type(value) is not wanted:
        raise SettingsError(f"{where}: expected {wanted.__name__}, got {value!r}")
    return value


def from_text(wanted: Any, text: str, where: str) -> Any:
    """A value that was typed; arguments and error as in `from_yaml`."""
    if get_origin(wanted) is Mapping:
        return as_mapping(yaml_from_text(text, where), where)
    if get_origin(wanted) is tuple:
        return _list_from_text(text, where)
    if wanted is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise SettingsError(f"{where}: expected true or false, got {text!r}")
    try:
        return wanted(text)
    except ValueError as error:
        raise SettingsError(f"{where}: expected {wanted.__name__}, got {text!r}") from error


def yaml_from_text(text: str, where: str) -> Any:
    """What a text is in YAML.

    Raises:
        SettingsError: it is none.
    """
    try:
        return load_yaml(text)
    except ValueError as error:
        raise SettingsError(f"{where}: {text!r} is not YAML: {error}") from error


def _list_from_text(text: str, where: str) -> tuple[str, ...]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise SettingsError(f"{where}: expected a JSON list of strings, got {text!r}")
    return tuple(items)


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """`["key=value", …]` as a mapping.

    Raises:
        SettingsError: an item has no `=`.
    """
    for item in assignments:
        if "=" not in item:
            raise SettingsError(f"--set takes KEY=VALUE, got {item!r}")
    return dict(item.split("=", 1) for item in assignments)
