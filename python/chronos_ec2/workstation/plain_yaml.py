"""YAML as people write it: plain values, whose size is that of the text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import yaml

_MOST_VALUES: Final = 100_000
"""A few lines of aliases of aliases stand for billions of values, which any look at them would spell out."""


def load_yaml(text: str) -> Any:
    """The values of a YAML document.

    Raises:
        ValueError: it is not YAML, or its aliases make it endless or huge.
    """
    try:
        document = yaml.safe_load(text)
        if _count(document, {}) > _MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {_MOST_VALUES} values")
    # PyYAML lets its constructors' own errors through: a 13th month, an empty !!int, no !!timestamp.
    except Exception as error:
        raise ValueError(str(error)) from error
    return document


def _count(value: object, known: dict[int, int | None]) -> int:
    """How many values there are when each alias is spelled out; each one is counted once for that."""
    parts: Iterable[object]
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        parts = value
    else:
        return 1
    if id(value) not in known:
        known[id(value)] = None
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    count = known[id(value)]
    if count is None:
        raise ValueError("an alias in it stands for what it is a part of")
    return count
