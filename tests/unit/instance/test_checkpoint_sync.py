"""Checkpoints on their way to S3 and back: whatever is cut off on the way never counts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chronos_ec2.errors import ChronosError, StorageDenied
from chronos_ec2.instance import checkpoint_restore
from chronos_ec2.instance.checkpoint_files import RESTORED, SAVED, find_checkpoints, read_note
from chronos_ec2.instance.checkpoint_restore import restore
from chronos_ec2.instance.checkpoint_sync import CheckpointSync, look_again_and_again
from chronos_ec2.instance.results_sync import settle_seconds, upload_checkpoints
from chronos_ec2.instance.trainers.checkpoints import newest_checkpoint, save_checkpoint
from chronos_ec2.state.stored_checkpoints import list_stored, parse_manifest

from .conftest import BUCKET, REPOSITORY, RUN_ID, wait_for
from .fakes import FakeS3, Fault

PREFIX = f"dev/{RUN_ID}/"
STORED = f"{BUCKET}/{PREFIX}checkpoints"
LONG_AGO = 1_000_000_000


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "the output" / "checkpoints").mkdir(parents=True)
    return tmp_path / "the output"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sync(s3_client: Any, output: Path, said: list[str]) -> CheckpointSync:
    return CheckpointSync(s3_client, BUCKET, PREFIX, output, log=said.append)


def save(output: Path, *steps: int) -> None:
    """What the test trainer does at each of the steps."""
    for step in steps:
        arrays = {"weights": np.full(50, step, dtype=np.float32)}
        write = partial(_write_state, arrays)
        save_checkpoint(output / "checkpoints", step, write, loss=0.5, origin={"seed": 0})


def _write_state(arrays: dict[str, Any], folder: Path) -> None:
    np.savez(folder / "state.npz", **arrays)


def save_without_manifest(output: Path, step: int, changed_at: int = LONG_AGO) -> Path:
    """What Hugging Face's Trainer does."""
    folder = output / "checkpoints" / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "shards" / "a shard").write_text("weights")
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (changed_at, changed_at))
    return folder


def puts(s3: FakeS3) -> list[str]:
    return [key.removeprefix(f"{STORED}/") for method, key in s3.requests if method == "PUT"]


def test_the_newest_two_go_up_newest_first_each_with_its_manifest_last(
    s3: FakeS3, sync: CheckpointSync, output: Path
) -> None:
    save(output, 9, 100)
    assert sync.run_once() == [100, 9]
    expected = [f"checkpoint-{step}/{name}" for step in (100, 9) for name in ("state.npz", "manifest.json")]
    assert puts(s3) == expected
    assert read_note(output / "checkpoints", SAVED) == {"step": 100}
    assert sync.run_once() == [] and puts(s3) == expected


def test_older_ones_leave_s3_manifest_first_once_two_newer_are_safe(
    s3: FakeS3, sync: CheckpointSync, output: Path
) -> None:
    for step in (10, 20, 30):
        save(output, step)
        sync.run_once()
    assert {key.split("/")[4] for key in s3.objects} == {"checkpoint-20", "checkpoint-30"}
    assert [key.rpartition("/")[2] for method, key in s3.requests if method == "DELETE"] == [
        "manifest.json",
        "state.npz",
    ]


def test_an_upload_that_was_cut_off_does_not_count_and_is_made_again(
    s3: FakeS3, s3_client: Any, sync: CheckpointSync, output: Path
) -> None:
    save(output, 10)
    s3.faults.append(Fault("PUT", "manifest.json", 403, "AccessDenied", times=1))
    with pytest.raises(StorageDenied):
        sync.run_once()
    assert f"{STORED}/checkpoint-10/state.npz" in s3.objects
    assert list_stored(s3_client, BUCKET, PREFIX) == []
    assert read_note(output / "checkpoints", SAVED) == {}
    assert sync.run_once() == [10]


def test_a_file_that_s3_refuses_is_an_error_of_ours(s3: FakeS3, sync: CheckpointSync, output: Path) -> None:
    save(output, 10)
    s3.faults.append(Fault("PUT", "state.npz", 403, "AccessDenied"))
    with pytest.raises(StorageDenied, match="uploading a checkpoint"):
        sync.run_once()


def test_a_damaged_checkpoint_stays_here_and_is_said_once(
    s3: FakeS3, sync: CheckpointSync, output: Path, said: list[str]
) -> None:
    save(output, 10, 20)
    (output / "checkpoints/checkpoint-20/state.npz").write_bytes(b"half")
    assert sync.run_once() == [10]
    sync.run_once()
    assert [line for line in said if "checkpoint-20" in line] == [
        f"checkpoint-20 is left out: state.npz has 4 bytes, {size_of(output, 10)} in its manifest"
    ]


def size_of(output: Path, step: int) -> int:
    return (output / f"checkpoints/checkpoint-{step}/state.npz").stat().st_size


def test_without_a_manifest_a_checkpoint_must_have_settled_and_is_given_one(
    s3: FakeS3, sync: CheckpointSync, output: Path, said: list[str]
) -> None:
    save_without_manifest(output, 10)
    fresh = save_without_manifest(output, 20)
    os.utime(fresh)
    assert sync.run_once() == [10]
    manifest = json.loads(s3.objects[f"{STORED}/checkpoint-10/manifest.json"])
    assert manifest["step"] == 10
    assert manifest["files"]["shards/a shard"] == {
        "bytes": 7,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert "it may still be written" in said[0]
    assert sync.run_once(settle_seconds=-1) == [20]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 names alone")
@pytest.mark.parametrize("with_manifest", [False, True])
def test_one_with_a_name_that_s3_cannot_hold_never_counts_and_the_one_before_goes_up(
    s3: FakeS3, s3_client: Any, sync: CheckpointSync, output: Path, said: list[str], with_manifest: bool
) -> None:
    save_without_manifest(output, 10)
    folder = save_without_manifest(output, 20)
    odd = folder / os.fsdecode(b"caf\xe9.npz")
    odd.write_bytes(b"weights")
    if with_manifest:
        fact = {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
        (folder / "manifest.json").write_text(json.dumps({"step": 20, "files": {odd.name: fact}}))
    for path in (odd, folder):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert sync.run_once() == [10] and sync.run_once() == []
    assert [one.step for one in list_stored(s3_client, BUCKET, PREFIX)] == [10]
    assert not any("checkpoint-20" in key for key in s3.objects), "half of one is of no use"
    assert [line for line in said if "left out" in line] == [
        "checkpoint-20 is left out, all of it: 'caf\\xe9.npz' cannot come along, "
        "its name is not UTF-8, and a key in S3 must be"
    ]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 names alone")
def test_a_file_beside_those_of_its_manifest_is_no_part_of_a_checkpoint(
    sync: CheckpointSync, output: Path
) -> None:
    save(output, 10)
    (output / "checkpoints/checkpoint-10" / os.fsdecode(b"caf\xe9.txt")).write_text("notes")
    assert sync.run_once() == [10]


@pytest.mark.parametrize("record", ['{"exit_code": 75}', '{"exit_code": 0}'])
def test_a_trainer_that_ended_by_itself_has_saved(output: Path, record: str) -> None:
    (output / "training.json").write_text(record)
    assert settle_seconds(output) == 0


@pytest.mark.parametrize("record", ['{"exit_code": 137}', '{"exit_code": null}', "{", None])
def test_one_that_was_ended_may_have_been_in_the_middle_of_it(output: Path, record: str | None) -> None:
    if record is not None:
        (output / "training.json").write_text(record)
    assert settle_seconds(output) > 0


def test_a_checkpoint_that_the_trainer_drops_meanwhile_is_no_failure(
    sync: CheckpointSync, output: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(output, 10)
    found = find_checkpoints(output / "checkpoints", 0)
    (output / "checkpoints/checkpoint-10/state.npz").unlink()
    monkeypatch.setattr("chronos_ec2.instance.checkpoint_sync.find_checkpoints", lambda *_: found)
    assert sync.run_once() == []
    assert "dropped by the trainer" in said[0]


def test_the_loop_loads_nothing_before_the_first_checkpoint_and_outlives_an_outage(output: Path) -> None:
    looks: list[str] = []

    class Sync:
        def run_once(self) -> None:
            looks.append("run")
            if len(looks) < 3:
                raise ChronosError("S3 is away")
            raise KeyboardInterrupt

    def make() -> Any:
        looks.append("made")
        return Sync()

    rounds = iter([None, lambda: save(output, 1), None, None])

    def sleep(_seconds: float) -> None:
        then = next(rounds)
        if then is not None:
            assert looks == []
            then()

    with pytest.raises(KeyboardInterrupt):
        look_again_and_again(make, output / "checkpoints", 1, sleep)
    assert looks == ["made", "run", "made", "run"], "with credentials that may have come meanwhile"


def test_as_a_process_it_uploads_until_it_is_ended(s3: FakeS3, output: Path) -> None:
    save(output, 5)
    flags = ["--bucket", BUCKET, "--prefix", PREFIX, "--from", str(output), "--every", "0.05"]
    environment = {**os.environ, **s3.environment(), "PYTHONPATH": str(REPOSITORY / "python")}
    argv = [sys.executable, "-m", "chronos_ec2.instance.checkpoint_sync", *flags]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: f"{STORED}/checkpoint-5/manifest.json" in s3.objects)
        save(output, 6)
        wait_for(lambda: f"{STORED}/checkpoint-6/manifest.json" in s3.objects)
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == -15


# -- and back ------------------------------------------------------------------------------------------


def cut_off(s3: FakeS3) -> None:
    s3.objects[f"{STORED}/checkpoint-20/state.npz"] = b"half"


def flip_a_bit(s3: FakeS3) -> None:
    body = bytearray(s3.objects[f"{STORED}/checkpoint-20/state.npz"])
    body[40] ^= 1
    s3.objects[f"{STORED}/checkpoint-20/state.npz"] = bytes(body)


def take_away(s3: FakeS3) -> None:
    del s3.objects[f"{STORED}/checkpoint-20/state.npz"]


def spoil_manifest(s3: FakeS3) -> None:
    s3.objects[f"{STORED}/checkpoint-20/manifest.json"] = b"[]"


def drop_manifest(s3: FakeS3) -> None:
    del s3.objects[f"{STORED}/checkpoint-20/manifest.json"]


def test_the_newest_comes_back_whole(s3: FakeS3, s3_client: Any, sync: CheckpointSync, output: Path) -> None:
    save(output, 10, 20)
    sync.run_once()
    into = output.parent / "another run"
    assert restore(s3_client, BUCKET, PREFIX, into, log=print) == 20
    found, problems = newest_checkpoint(into)
    assert found is not None
    assert (found.step, float(np.load(found.path / "state.npz")["weights"][0]), problems) == (20, 20.0, [])
    assert read_note(into, RESTORED) == {"run_id": RUN_ID, "step": 20}


def test_a_resumed_run_can_be_resumed_before_it_has_saved_anything_itself(
    s3_client: Any, sync: CheckpointSync, output: Path
) -> None:
    save(output, 20)
    sync.run_once()
    second, third = output.parent / "second", output.parent / "third"
    restore(s3_client, BUCKET, PREFIX, second / "checkpoints", log=print)
    assert CheckpointSync(s3_client, BUCKET, "dev/second/", second, log=print).run_once() == [20]
    assert restore(s3_client, BUCKET, "dev/second/", third / "checkpoints", log=print) == 20


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, take_away, spoil_manifest, drop_manifest])
def test_the_newest_that_verifies_wins(
    s3: FakeS3, s3_client: Any, sync: CheckpointSync, output: Path, damage: Callable[[FakeS3], None]
) -> None:
    save(output, 10, 20)
    sync.run_once()
    damage(s3)
    into, said = output.parent / "another run", list[str]()
    assert restore(s3_client, BUCKET, PREFIX, into, log=said.append) == 10
    assert [path.name for path in into.iterdir() if path.name.startswith("checkpoint-")] == ["checkpoint-10"]
    assert bool(said) is (damage is not drop_manifest)


def test_the_command_line_says_what_it_found(
    s3: FakeS3,
    sync: CheckpointSync,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    flags = ["--bucket", BUCKET, "--prefix", PREFIX, "--into", str(output / "there")]
    assert checkpoint_restore.main(flags) == 1
    said = capsys.readouterr()
    assert said.out == "" and "has no checkpoint that verifies" in said.err
    save_without_manifest(output, 30)
    sync.run_once()
    assert checkpoint_restore.main(flags) == 0
    assert capsys.readouterr().out == "30\n"
    assert (output / "there/checkpoint-30/shards/a shard").read_text() == "weights"
    s3.faults.append(Fault("GET", "manifest.json", 403, "AccessDenied"))
    assert checkpoint_restore.main(flags) == 15


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "manifest.json", "", "a//b"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    body = json.dumps({"step": 1, "files": {name: {"bytes": 1, "sha256": "00"}}}).encode()
    with pytest.raises(ValueError, match="no file of this checkpoint"):
        parse_manifest(body, 1)


def test_at_the_end_a_hiccup_is_tried_again(
    s3: FakeS3, s3_client: Any, sync: CheckpointSync, output: Path
) -> None:
    save(output, 10, 20)
    s3.faults.append(Fault("GET", "", 400, "BadRequest", times=1))
    s3.faults.append(Fault("PUT", "state.npz", 400, "BadDigest", times=1))
    waits: list[float] = []
    upload_checkpoints(sync, output, sleep=waits.append)
    assert [one.step for one in list_stored(s3_client, BUCKET, PREFIX)] == [20, 10]
    assert len(waits) == 2


def test_at_the_end_what_keeps_failing_is_said(s3: FakeS3, sync: CheckpointSync, output: Path) -> None:
    save(output, 10)
    s3.faults.append(Fault("PUT", "state.npz", 400, "BadDigest"))
    with pytest.raises(ChronosError, match="checkpoint"):
        upload_checkpoints(sync, output, sleep=lambda _seconds: None)


def test_at_the_end_a_refusal_is_not_tried_again(s3: FakeS3, sync: CheckpointSync, output: Path) -> None:
    save(output, 10)
    s3.faults.append(Fault("PUT", "state.npz", 403, "AccessDenied"))
    waits: list[float] = []
    with pytest.raises(StorageDenied):
        upload_checkpoints(sync, output, sleep=waits.append)
    assert waits == []
