"""Checkpoints as they lie in S3, which the instance and the laptop both have to judge.

    {env}/{run_id}/checkpoints/checkpoint-200/manifest.json    step, size and sha256 of every other file
    {env}/{run_id}/checkpoints/checkpoint-200/state.npz        …

A checkpoint's manifest is uploaded last and deleted first, so one without it, or one that lacks a file of the
manifest's size, was never finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

FOLDER: Final = "checkpoints"
MANIFEST: Final = "manifest.json"
NAME: Final = re.compile(r"checkpoint-(\d{1,15})", re.ASCII)
KEEP: Final = 2
"""How many are kept, here and there: the newest may turn out to be damaged."""


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file's size in bytes and its sha256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of, by its own word; `body` is that word as it stands in the file."""

    step: int
    files: Mapping[str, FileFact]
    body: bytes


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint of which the manifest is in S3.

    Attributes:
        step: the optimiser step in its name.
        prefix: its keys' common beginning, with the slash.
        sizes: bytes of every object, by its name below the prefix.
    """

    step: int
    prefix: str
    sizes: Mapping[str, int]

    def flaws(self, manifest: Manifest) -> list[str]:
        """What the manifest names and S3 does not have; nothing when it is all there."""
        return [
            f"{name} has {self.sizes.get(name, 'no')} bytes of {fact.bytes}"
            for name, fact in manifest.files.items()
            if self.sizes.get(name) != fact.bytes
        ]


def make_manifest(step: int, files: Mapping[str, FileFact]) -> bytes:
    """The manifest of a checkpoint whose trainer wrote none."""
    facts = {name: {"bytes": fact.bytes, "sha256": fact.sha256} for name, fact in files.items()}
    return json.dumps({"format_version": 1, "step": step, "files": facts}, indent=2).encode()


def parse_manifest(body: bytes, step: int) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is none, it is of another step, or a name in it leads out of the checkpoint's folder.
    """
    try:
        document = json.loads(body)
        named = document["files"]
        files = {str(name): FileFact(int(fact["bytes"]), str(fact["sha256"])) for name, fact in named.items()}
        said = document["step"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is no manifest of a checkpoint: {error!r}") from None
    if said != step:
        raise ValueError(f"{MANIFEST} is of step {said!r}, not {step}")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or name in ("", ".", MANIFEST):
            raise ValueError(f"{MANIFEST} names {name!r}, which is no file of this checkpoint")
    return Manifest(step, files, body)


def list_stored(client: Any, bucket: str, run_prefix: str) -> list[StoredCheckpoint]:
    """The checkpoints of a run that have their manifest, newest first.

    Args:
        client: a boto3 S3 client.
        run_prefix: `{env}/{run_id}/`.

    Raises:
        ClientError, BotoCoreError: S3 did not list them.
    """
    folder = f"{run_prefix}{FOLDER}/"
    found: dict[int, dict[str, int]] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        for item in page.get("Contents", []):
            head, _, name = item["Key"][len(folder) :].partition("/")
            match = NAME.fullmatch(head)
            if match and name:
                found.setdefault(int(match[1]), {})[name] = item["Size"]
    return [
        StoredCheckpoint(step, f"{folder}checkpoint-{step}/", sizes)
        for step, sizes in sorted(found.items(), reverse=True)
        if MANIFEST in sizes
    ]


def read_manifest(client: Any, bucket: str, stored: StoredCheckpoint) -> Manifest:
    """Fetch a stored checkpoint's manifest and see that all it names is there.

    Raises:
        ValueError: it is no manifest, or a file is missing or of another size.
        ClientError, BotoCoreError: S3 did not hand it out.
    """
    body = client.get_object(Bucket=bucket, Key=stored.prefix + MANIFEST)["Body"].read()
    manifest = parse_manifest(body, stored.step)
    if flaws := stored.flaws(manifest):
        raise ValueError("; ".join(flaws))
    return manifest
