from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chronos_ec2.instance.trainers import checkpoints, files
from chronos_ec2.instance.trainers.checkpoints import newest_checkpoint, remove_checkpoints, save_checkpoint


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step, state(step), loss=0.5, origin={"seed": 1})[0]


def state(step: int) -> Callable[[Path], None]:
    """Writes a state."""

    def write(folder: Path) -> None:
        np.savez(folder / "state.npz", weights=np.full((2, 3), step, dtype=np.float32))

    return write


def test_a_checkpoint_comes_back_with_step_loss_origin_and_files(tmp_path: Path) -> None:
    path, size = save_checkpoint(tmp_path, 7, state(1), loss=0.25, origin={"seed": 1})
    found, problems = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, found.step, found.loss, found.origin, problems) == (path, 7, 0.25, {"seed": 1}, [])
    assert np.load(found.path / "state.npz")["weights"].tolist() == [[1] * 3] * 2
    assert size == sum(item.stat().st_size for item in path.iterdir())


def test_the_newest_by_number_is_taken_and_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step)
    found, _ = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]


@pytest.mark.parametrize(
    ("before", "damaged", "kept"),
    [
        ((100, 200), (200,), (100, 150)),
        ((100, 200, 300), (200, 300), (100, 150)),
        ((90, 100), (100,), (90, 100, 150)),
        ((80, 90, 100), (100,), (90, 100, 150)),
        ((90, 100, 149), (100, 149), (90, 100, 149, 150)),
        ((140,), (140,), (140, 150)),
    ],
)
@pytest.mark.parametrize("how", ["no manifest", "cut state"])
def test_a_damaged_checkpoint_is_none_of_the_two_that_are_kept(
    tmp_path: Path, before: tuple[int, ...], damaged: tuple[int, ...], kept: tuple[int, ...], how: str
) -> None:
    for step in before:  # not by `save`, which drops
        save(tmp_path / str(step), step).rename(tmp_path / f"checkpoint-{step}")
    for step in damaged:
        path = tmp_path / f"checkpoint-{step}"
        cut_state(path) if how == "cut state" else (path / "manifest.json").unlink()
    save(tmp_path, 150)
    assert sorted(int(path.name[11:]) for path in tmp_path.glob("checkpoint-*")) == list(kept)


def test_newer_ones_go_when_the_one_written_is_whole_and_not_before(tmp_path: Path) -> None:
    save(tmp_path / "first", 100).rename(tmp_path / "checkpoint-100")
    flip_a_byte(save(tmp_path, 200))

    def fill_the_disk(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 150, fill_the_disk, loss=0.5, origin={})
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    save(tmp_path, 150)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-100", "checkpoint-150"}


def test_no_checkpoint_is_no_problem(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") == (None, [])
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    assert newest_checkpoint(tmp_path) == (None, [])


def cut_state(path: Path) -> None:
    (path / "state.npz").write_bytes((path / "state.npz").read_bytes()[:-1])


def flip_a_byte(path: Path) -> None:
    body = bytearray((path / "state.npz").read_bytes())
    body[len(body) // 2] ^= 1
    (path / "state.npz").write_bytes(body)


def change_step(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "step": 99}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text("{"),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: (path / "state.npz").unlink(),
        cut_state,
        flip_a_byte,
        change_step,
    ],
    ids=["no manifest", "half a manifest", "a list", "no state", "cut state", "changed state", "other step"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save(tmp_path, 10)
    damage(save(tmp_path, 20))
    found, problems = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 10
    assert len(problems) == 1
    assert "checkpoint-20" in problems[0]


def test_a_state_that_cannot_be_written_leaves_the_older_checkpoint_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 10)

    def fill_the_disk(folder: Path) -> None:
        (folder / "state.npz").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 20, fill_the_disk, loss=0.5, origin={})
    found, problems = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, problems) == (10, [])


def test_a_disk_that_fills_up_at_the_manifest_leaves_the_older_checkpoint_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)

    def write(path: Path, fill: Callable[..., object]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 20)
    found, problems = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, problems) == (10, [])


def test_a_draft_left_by_a_crash_does_not_hinder_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".tmp-checkpoint-10").mkdir()
    (tmp_path / ".tmp-checkpoint-10" / "state.npz").write_text("half")
    save(tmp_path, 10)
    assert newest_checkpoint(tmp_path)[1] == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_removing_takes_them_all(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / "checkpoint-20").mkdir()
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["unlink", "rmdir"])
def test_processes_that_remove_at_once_remove_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Each file, and each folder, is one that another process has just removed."""
    real = getattr(os, call)

    def late(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        real(*arguments, **named)

    monkeypatch.setattr(os, call, late)
    for step in (10, 20):
        save(tmp_path, step)
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_removed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        remove_checkpoints(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
