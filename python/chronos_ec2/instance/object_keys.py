"""Which files can be objects: a key in S3 is UTF-8 of 1024 bytes at most, a file's name any bytes."""

from __future__ import annotations

import os
from typing import Final

MOST_BYTES: Final = 1024


def key_flaw(key: str) -> str | None:
    """Why S3 takes no such key; None when it does.

    Args:
        key: with the prefix; bytes of a file's name that are no UTF-8 are in it as Python decodes them.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8, and a key in S3 must be"
    return None if size <= MOST_BYTES else f"its key would have {size} bytes, S3 takes {MOST_BYTES}"


def shown(name: str) -> str:
    """A file's name for a line of text: as it is, or its bytes as Python writes them, `'caf\\xe9.txt'`."""
    return name if name.isprintable() else repr(os.fsencode(name))[1:]
