"""The checkpoints in a run's output folder: which of them are whole.

A trainer writes each as a folder `checkpoints/checkpoint-STEP`. With a `manifest.json` in it (step; size and
sha256 of every file; written last), it is whole when the files have those sizes. A trainer that writes none,
as Hugging Face's, is given a manifest; its folder counts as whole when nothing in it has changed for a while,
or when the trainer has ended and said that it had saved.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chronos_ec2.instance.training_record import file_facts, write_json_atomically
from chronos_ec2.state.stored_checkpoints import (
    MANIFEST,
    NAME,
    FileFact,
    Manifest,
    make_manifest,
    parse_manifest,
)

SAVED: Final = ".tmp-saved.json"
"""In the checkpoints folder: `{"step": N}`, the newest checkpoint that is safe in S3."""
RESTORED: Final = ".tmp-restored.json"
"""In the checkpoints folder: `{"run_id": R, "step": N}`, the checkpoint that this run began with."""
REQUEST: Final = ".requested"
"""In the checkpoints folder: while this file is there, a checkpoint is wanted now; the trainer removes it."""


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint on the disk that is whole.

    Attributes:
        path: its folder.
        names: its files, relative to the folder, without the manifest.
        manifest: the trainer's own manifest, as it stands in the file; None when the trainer writes none.
    """

    step: int
    path: Path
    names: tuple[str, ...]
    manifest: bytes | None

    def described(self) -> bytes:
        """The manifest to upload, made from the files when there is none; reads all of them then.

        Raises:
            OSError: a file is gone: the trainer has dropped this checkpoint meanwhile.
        """
        if self.manifest is not None:
            return self.manifest
        facts = {name: FileFact(**file_facts(self.path / name)) for name in self.names}
        return make_manifest(self.step, facts)


def find_checkpoints(folder: Path, settled_before: float) -> tuple[list[LocalCheckpoint], list[str]]:
    """The whole checkpoints in a folder, newest first, and of the others why they are not.

    Args:
        folder: the run's checkpoints folder; it need not be there.
        settled_before: epoch seconds; without a manifest, one that changed later is still being written.
    """
    whole, problems = [], []
    for step, path in sorted(_numbered(folder), reverse=True):
        try:
            whole.append(_look_at(path, step, settled_before))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name} is left out: {error}")
    return whole, problems


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    named = [(NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return [(int(match[1]), path) for match, path in named if match and path.is_dir()]


def _look_at(path: Path, step: int, settled_before: float) -> LocalCheckpoint:
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.is_symlink()]
    names = tuple(file.relative_to(path).as_posix() for file in files)
    if MANIFEST in names:
        body = (path / MANIFEST).read_bytes()
        return LocalCheckpoint(step, path, _whole(path, parse_manifest(body, step)), body)
    if not files:
        raise ValueError("it is empty")
    if max(file.stat().st_mtime for file in [path, *files]) > settled_before:
        raise ValueError("it changed a moment ago and has no manifest.json: it may still be written")
    return LocalCheckpoint(step, path, names, None)


def _whole(path: Path, manifest: Manifest) -> tuple[str, ...]:
    for name, fact in manifest.files.items():
        if (path / name).stat().st_size != fact.bytes:
            raise ValueError(f"{name} has {(path / name).stat().st_size} bytes, {fact.bytes} in its manifest")
    return tuple(manifest.files)


def write_note(folder: Path, name: str, **facts: object) -> None:
    """Write `SAVED` or `RESTORED`; a disk that is full costs the note, not the run."""
    with contextlib.suppress(OSError):
        write_json_atomically(folder / name, facts)


def read_note(folder: Path, name: str) -> dict[str, object]:
    """What `write_note` wrote; nothing when there is none."""
    try:
        note = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
