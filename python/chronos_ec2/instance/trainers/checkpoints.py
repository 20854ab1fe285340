"""Checkpoints that survive a machine taken away in the middle of writing one.

    checkpoints/checkpoint-200/...              what the trainer needs to go on
    checkpoints/checkpoint-200/manifest.json    step, settings, data, size and digest of every file

A checkpoint is written under another name, its manifest last, and renamed when it is on the disk. One whose
manifest is missing, or does not match its files (half uploaded, cut off), is passed over for the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from chronos_ec2.errors import SettingsError
from chronos_ec2.instance.checkpoint_files import REQUEST
from chronos_ec2.instance.trainers.files import sha256_of, write_atomically

FORMAT_VERSION: Final = 1
KEEP: Final = 2
"""How many are kept: never fewer than two, for the newest may turn out to be damaged."""

_MANIFEST: Final = "manifest.json"
_DIGEST_LENGTH: Final = 64
_NAME: Final = re.compile(r"checkpoint-(\d+)")
_NOT_WHOLE: Final = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a damaged checkpoint raises."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    step: int
    loss: float
    origin: dict[str, Any]
    """What it was made from; resuming under anything else would mix two runs."""

    def refuse_other_origin(
        self, origin: Mapping[str, Any], remedies: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Make sure that a run goes on with what it began with.

        Args:
            origin: what it would go on with.
            remedies: what to do about a key, where it is more than to put it back.

        Raises:
            SettingsError: settings or data are other than the checkpoint's.
        """
        for key, value in origin.items():
            if self.origin.get(key) == value:
                continue
            digest = isinstance(value, str) and len(value) == _DIGEST_LENGTH
            was = "" if digest else f" ({self.origin.get(key)!r} then, {value!r} now)"
            raise SettingsError(
                f"{self.path.name} was made with another {key}{was}: {remedies.get(key, 'put it back')}, "
                f"or start over with --fresh"
            )


def save_checkpoint(
    folder: Path, step: int, write: Callable[[Path], object], *, loss: float, origin: dict[str, Any]
) -> tuple[Path, int]:
    """Write `checkpoint-{step}`, then drop all but it and the newest whole ones before it, `KEEP` in all.

    Args:
        folder: the run's checkpoints folder.
        step: updates made so far.
        write: writes the state's files into the folder that it is given.
        loss: the loss of the last update.
        origin: see `Checkpoint.origin`.

    Returns:
        Where it lies, and its size in bytes.

    Raises:
        OSError: the disk is full or cannot be written; earlier checkpoints stay as they are.
    """
    final = folder / f"checkpoint-{step}"
    draft = folder / f".tmp-checkpoint-{step}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    write(draft)
    files = {path.name: _settled(path) for path in sorted(draft.iterdir())}
    facts = {"step": step, "loss": loss, "origin": origin, "files": files}
    body = json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2).encode()
    write_atomically(draft / _MANIFEST, lambda stream: stream.write(body))
    shutil.rmtree(final, ignore_errors=True)
    draft.replace(final)
    _sync(folder)
    _drop_others(folder, step)
    return final, sum(fact["bytes"] for fact in files.values()) + len(body)


def _settled(path: Path) -> dict[str, Any]:
    """Bring a file to the disk; what it is."""
    # Libraries write weights for their owner alone; whoever uploads or fetches them may be another user.
    path.chmod(0o644)
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest checkpoint that is whole.

    Returns:
        It, or None when there is none; and for every newer one passed over, why.
    """
    problems: list[str] = []
    for step in sorted(_steps(folder), reverse=True):
        path = folder / f"checkpoint-{step}"
        try:
            return _load(path, step), problems
        except _NOT_WHOLE as error:
            problems.append(f"{path.name} is not whole and was passed over: {error}")
    return None, problems


def take_request(folder: Path) -> bool:
    """Whether somebody wants a checkpoint now, without waiting for the next one due; asks once a request."""
    try:
        (folder / REQUEST).unlink()
    except OSError:
        return False
    return True


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint, whole or not; processes that train together may do so at once.

    Raises:
        OSError: one cannot be removed.
    """
    for step in _steps(folder):
        path = folder / f"checkpoint-{step}"
        while path.exists():
            # What is gone already another process has removed: so each round leaves less.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)


def _load(path: Path, step: int) -> Checkpoint:
    manifest = _read_manifest(path, step)
    for name, fact in manifest["files"].items():
        if sha256_of(path / name) != fact["sha256"]:
            raise ValueError(f"{name} is not what its manifest says")
    return Checkpoint(path, step, float(manifest["loss"]), manifest["origin"])


def _read_manifest(path: Path, step: int) -> dict[str, Any]:
    """The manifest, whose files are there in their sizes."""
    if not (path / _MANIFEST).is_file():
        raise ValueError("no manifest.json, so writing it never ended")
    manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    if manifest["format_version"] != FORMAT_VERSION or manifest["step"] != step:
        raise ValueError("its manifest is of another step or version")
    for name, fact in manifest["files"].items():
        if (path / name).stat().st_size != fact["bytes"]:
            raise ValueError(f"{name} is not what its manifest says")
    return manifest


def _seems_whole(path: Path, step: int) -> bool:
    try:
        _read_manifest(path, step)
    except _NOT_WHOLE:
        return False
    return True


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return [int(match[1]) for match in matches if match]


def _drop_others(folder: Path, written: int) -> None:
    """Drop what is older than the kept, and what is newer than the one just written: it was passed over."""
    kept = 1
    for step in sorted(set(_steps(folder)) - {written}, reverse=True):
        path = folder / f"checkpoint-{step}"
        if step < written and kept < KEEP:
            kept += _seems_whole(path, step)
            continue
        # One that stays costs disk, not the run.
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
