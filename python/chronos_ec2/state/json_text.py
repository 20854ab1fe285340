"""JSON as it lies in a bucket, decoded so that all of its text can be written again."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_HALF: Final = re.compile("[\ud800-\udfff]")


def decode_json(body: bytes, **more: Any) -> Any:
    """Decode JSON; half a character, as `"\\ud800"` is one, which no encoding can write, becomes U+FFFD.

    Args:
        more: for `json.loads`.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deep.
    """
    value = json.loads(body, **more)
    return value if body.isascii() and b"\\" not in body else _whole(value)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_whole(name): _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
