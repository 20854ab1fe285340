"""The files of a Chronos-2 model that a training starts from, checked without reading any weight."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from chronos_ec2.errors import SettingsError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
MODEL_FILES: Final = (CONFIG, WEIGHTS)
"""What `save_pretrained` of the library writes, and all that is ever read."""
PIPELINE_CLASS: Final = "Chronos2Pipeline"

MODELS_PREFIX: Final = "cached-datasets/models/"
_CONTENT_NAME: Final = re.compile(re.escape(MODELS_PREFIX) + r"([0-9a-f]{16})/")

_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000  # the format's own limit


def in_s3(model_id: str) -> bool:
    """Whether a `model_id` names a prefix in S3."""
    return model_id.startswith("s3://")


def split_uri(model_id: str) -> tuple[str, str]:
    """The bucket and the prefix, which ends with a slash, of `s3://bucket/prefix`."""
    bucket, _, prefix = model_id.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/") + "/"


def content_name(sha256: Sequence[str]) -> str:
    """The name that an uploaded model has below `MODELS_PREFIX`, made of what is in it.

    Args:
        sha256: of each of `MODEL_FILES`.
    """
    return hashlib.sha256("".join(sha256).encode()).hexdigest()[:16]


def promised_name(prefix: str) -> str | None:
    """The `content_name` that a prefix promises; None where it is another name than an upload gives."""
    found = _CONTENT_NAME.fullmatch(prefix)
    return found[1] if found else None


def read_model_config(folder: Path) -> dict[str, Any]:
    """Check a model's folder, and return its config.json.

    Raises:
        SettingsError: a file is missing or broken, it is another kind of model, or its weights are not in
            safetensors: other formats run code when they are read.
    """
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{folder / CONFIG} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{folder / CONFIG} is not JSON") from error
    if not isinstance(raw, dict) or raw.get("chronos_pipeline_class") != PIPELINE_CLASS:
        kind = raw.get("chronos_pipeline_class") if isinstance(raw, dict) else None
        raise SettingsError(f"{folder} holds no Chronos-2 model (chronos_pipeline_class is {kind!r})")
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise SettingsError(
            f"{folder} has no {WEIGHTS}; weights in other formats run code when they are read"
        )
    problem = _broken(weights)
    if problem:
        raise SettingsError(f"{weights} is no whole safetensors file: {problem}")
    return raw


def _broken(weights: Path) -> str | None:
    """What is wrong with the header or the length of a file (format: safetensors README, "Format")."""
    size = weights.stat().st_size
    with weights.open("rb") as stream:
        start = stream.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES:
            return f"{size} bytes"
        (length,) = struct.unpack("<Q", start)
        if length > min(_LONGEST_HEADER, size):
            return "its header's length is beyond its end"
        head = stream.read(length)
    try:
        ends = [
            int(entry["data_offsets"][1])
            for name, entry in json.loads(head).items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return "its header cannot be read"
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    return None if size == expected else f"{size} bytes, its header says {expected}"
