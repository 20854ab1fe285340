"""JSON that others wrote, decoded so that all of its text can be written again."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_HALF: Final = re.compile("[\ud800-\udfff]")


def decode_json(body: bytes | str, **more: Any) -> Any:
    """Decode JSON; half a character, as `"\\ud800"` is one, which no encoding can write, becomes U+FFFD.

    Args:
        more: for `json.loads`.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deep.
    """
    value = json.loads(body, **more)
    escaped = b"\\" in body if isinstance(body, bytes) else "\\" in body
    return _whole(value) if escaped or not body.isascii() else value


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_whole(name): _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
