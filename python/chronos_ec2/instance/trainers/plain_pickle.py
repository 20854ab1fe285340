"""A pickle of plain values only: numbers, text, bytes, lists and dicts, nothing that names code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final, NoReturn

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.trainers.files import write_atomically

_PROTOCOL: Final = 4


def write_plain(path: Path, content: dict[str, Any]) -> None:
    """Write plain values; the same ones give the same bytes."""
    write_atomically(path, lambda stream: pickle.dump(content, stream, protocol=_PROTOCOL))


def read_plain(path: Path, expected: str, version: int) -> dict[str, Any]:
    """Read what `write_plain` wrote.

    Args:
        path: the file.
        expected, version: its `format` and `format_version`.

    Raises:
        ChronosError: it is of another format or version, or refers to any class or function: loading that
            would run code of the file's choosing, so it is refused.
    """
    with path.open("rb") as stream:
        try:
            content = _PlainUnpickler(stream).load()
        except Exception as error:
            raise ChronosError(
                f"{path}: refused, it is not a pickle of plain values only ({error})"
            ) from error
    if not isinstance(content, dict) or content.get("format") != expected:
        raise ChronosError(f"{path}: not a {expected} model")
    if content.get("format_version") != version:
        raise ChronosError(f"{path}: written by another version (format {content.get('format_version')!r})")
    return content


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}")
