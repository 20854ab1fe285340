"""Checkpoints that survive a machine taken away in the middle of writing one.

    checkpoints/checkpoint-200/state.npz        weights and the optimiser's arrays
    checkpoints/checkpoint-200/manifest.json    step, settings, data, size and digest of every file

A checkpoint is written under another name, its manifest last, and renamed when it is on the disk. One whose
manifest is missing, or does not match its files (half uploaded, cut off), is passed over for the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chronos_ec2.instance.checkpoint_files import REQUEST
from chronos_ec2.instance.trainers.files import sha256_of, write_atomically

FORMAT_VERSION: Final = 1
KEEP: Final = 2
"""How many are kept: never fewer than two, for the newest may turn out to be damaged."""

_STATE: Final = "state.npz"
_MANIFEST: Final = "manifest.json"
_NAME: Final = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    step: int
    loss: float
    origin: dict[str, Any]
    """What it was made from; resuming under anything else would mix two runs."""
    arrays: dict[str, NDArray[np.float32]]


def save_checkpoint(
    folder: Path, step: int, arrays: Mapping[str, NDArray[np.float32]], *, loss: float, origin: dict[str, Any]
) -> tuple[Path, int]:
    """Write `checkpoint-{step}` and drop all but the newest `KEEP`.

    Args:
        folder: the run's checkpoints folder.
        step: updates made so far.
        arrays: the state, by name.
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
    write_atomically(draft / _STATE, lambda stream: np.savez(stream, allow_pickle=False, **dict(arrays)))
    size = (draft / _STATE).stat().st_size
    files = {_STATE: {"bytes": size, "sha256": sha256_of(draft / _STATE)}}
    facts = {"step": step, "loss": loss, "origin": origin, "files": files}
    body = json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2).encode()
    write_atomically(draft / _MANIFEST, lambda stream: stream.write(body))
    shutil.rmtree(final, ignore_errors=True)
    draft.replace(final)
    _sync_folder(folder)
    _drop_old(folder)
    return final, size + len(body)


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
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    """Remove every checkpoint, whole or not."""
    for step in _steps(folder):
        shutil.rmtree(folder / f"checkpoint-{step}")


def _load(path: Path, step: int) -> Checkpoint:
    if not (path / _MANIFEST).is_file():
        raise ValueError("no manifest.json, so writing it never ended")
    manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    if manifest["format_version"] != FORMAT_VERSION or manifest["step"] != step:
        raise ValueError("its manifest is of another step or version")
    for name, fact in manifest["files"].items():
        if (path / name).stat().st_size != fact["bytes"] or sha256_of(path / name) != fact["sha256"]:
            raise ValueError(f"{name} is not what its manifest says")
    with np.load(path / _STATE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return Checkpoint(path, step, float(manifest["loss"]), manifest["origin"], arrays)


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return [int(match[1]) for match in matches if match]


def _drop_old(folder: Path) -> None:
    for step in sorted(_steps(folder), reverse=True)[KEEP:]:
        # An old checkpoint that stays costs disk, not the run.
        shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
