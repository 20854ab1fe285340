"""Fetching training data from a fake S3."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import ChronosError, DataInvalid, NotUploaded, StorageDenied
from chronos_ec2.instance.data_sync import DataSync, parse_manifest

from .conftest import BUCKET, REPOSITORY
from .fakes import FakeS3, Fault

PREFIX = "cached-datasets/training-data/"
FILES = {"EWR weather.parquet": b"e" * 5000, "jfk.parquet": b"j" * 70_000, "lga.parquet": b""}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put_data(s3: FakeS3, files: dict[str, bytes] = FILES) -> str:
    """Upload a data set; returns the manifest's digest."""
    entries = [
        {"name": n, "bytes": len(b), "sha256": sha256(b), "rows": 1, "series": 1} for n, b in files.items()
    ]
    manifest = json.dumps({"files": entries, "rows": 3, "series": 3}).encode()
    for name, body in {**files, "MANIFEST.json": manifest, "stray.parquet": b"not named"}.items():
        s3.objects[f"{BUCKET}/{PREFIX}{name}"] = body
    return sha256(manifest)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "training data"


@pytest.fixture
def sync(s3_client: Any, into: Path) -> DataSync:
    return DataSync(s3_client, BUCKET, PREFIX, into, sleep=lambda _: None)


def test_the_named_files_arrive_and_nothing_else(s3: FakeS3, sync: DataSync, into: Path) -> None:
    report = sync.run(put_data(s3))
    assert {p.name: p.read_bytes() for p in into.iterdir() if p.suffix == ".parquet"} == FILES
    assert sorted(p.name for p in into.iterdir()) == sorted([*FILES, "MANIFEST.json"])
    assert (report.files, report.fetched, report.fetched_bytes) == (3, 3, 75_000)


def test_what_is_right_is_not_fetched_again(s3: FakeS3, sync: DataSync, into: Path) -> None:
    put_data(s3)
    sync.run()
    (into / "jfk.parquet").write_bytes(b"J" * 70_000)
    s3.requests.clear()
    assert sync.run().fetched == 1
    assert {key for _, key in s3.requests if key.endswith(".parquet")} == {f"{BUCKET}/{PREFIX}jfk.parquet"}
    assert (into / "jfk.parquet").read_bytes() == FILES["jfk.parquet"]


def test_no_manifest_says_run_upload(s3: FakeS3, sync: DataSync) -> None:
    with pytest.raises(NotUploaded, match="invoke upload"):
        sync.run()


def test_other_data_than_launched_with_is_refused(s3: FakeS3, sync: DataSync, into: Path) -> None:
    put_data(s3)
    with pytest.raises(DataInvalid, match=f"expected {'0' * 64}"):
        sync.run("0" * 64)
    assert not into.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"j" * 69_999 + b"x", "sha256"), (b"short", "5 bytes, expected 70000")],
    ids=["content", "size"],
)
def test_a_wrong_file_is_named_and_never_takes_the_name(
    s3: FakeS3, sync: DataSync, into: Path, body: bytes, words: str
) -> None:
    put_data(s3)
    s3.objects[f"{BUCKET}/{PREFIX}jfk.parquet"] = body
    with pytest.raises(DataInvalid, match=f"jfk.parquet is not what MANIFEST.json says: {words}"):
        sync.run()
    assert sorted(p.name for p in into.iterdir()) == ["EWR weather.parquet", "lga.parquet"]


def test_every_file_that_fails_is_named(s3: FakeS3, sync: DataSync) -> None:
    put_data(s3)
    del s3.objects[f"{BUCKET}/{PREFIX}lga.parquet"], s3.objects[f"{BUCKET}/{PREFIX}jfk.parquet"]
    with pytest.raises(NotUploaded, match=r"jfk\.parquet.*; .*lga\.parquet"):
        sync.run()


def test_a_refusal_is_told_as_one(s3: FakeS3, sync: DataSync) -> None:
    put_data(s3)
    s3.faults.append(Fault("HEAD", "jfk", 403, "AccessDenied"))
    with pytest.raises(StorageDenied, match="instance profile"):
        sync.run()


def test_parquet_files_of_somebody_else_are_refused(s3: FakeS3, sync: DataSync, into: Path) -> None:
    put_data(s3)
    into.mkdir()
    (into / "old.parquet").write_bytes(b"old")
    with pytest.raises(DataInvalid, match=r"old\.parquet; remove"):
        sync.run()


def test_what_a_killed_sync_left_is_no_obstacle(s3: FakeS3, sync: DataSync, into: Path) -> None:
    put_data(s3)
    into.mkdir()
    (into / ".tmp-jfk.parquet").write_bytes(b"half")
    assert sync.run().fetched == 3
    assert not (into / ".tmp-jfk.parquet").exists()


def test_a_full_disk_is_told_as_one(s3: FakeS3, s3_client: Any, into: Path) -> None:
    class FullDisk:
        get_object = s3_client.get_object

        def download_file(self, *_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    put_data(s3)
    with pytest.raises(ChronosError, match=r"jfk\.parquet into .* No space left"):
        DataSync(FullDisk(), BUCKET, PREFIX, into, sleep=lambda _: None).run()


@pytest.mark.parametrize(
    "manifest",
    [
        b"{",
        b"[]",
        b'{"files": []}',
        b'{"files": [{"name": "a"}]}',
        b'{"files": [{"name": "../a", "bytes": 1, "sha256": "%s"}]}' % (b"0" * 64),
        b'{"files": [{"name": ".a", "bytes": 1, "sha256": "%s"}]}' % (b"0" * 64),
        b'{"files": [{"name": 3, "bytes": 1, "sha256": "%s"}]}' % (b"0" * 64),
        b'{"files": [{"name": "a", "bytes": "1", "sha256": "%s"}]}' % (b"0" * 64),
        b'{"files": [{"name": "a", "bytes": 1, "sha256": "abc"}]}',
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_is_off_is_refused(manifest: bytes) -> None:
    with pytest.raises(DataInvalid, match="invoke upload"):
        parse_manifest(manifest)


def test_the_command_line(s3: FakeS3, into: Path) -> None:
    pinned = put_data(s3)
    environment = {**os.environ, **s3.environment(), "PYTHONPATH": str(REPOSITORY / "python")}
    argv = [sys.executable, "-m", "chronos_ec2.instance.data_sync", "--bucket", BUCKET, "--into", str(into)]

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*argv, *flags], env=environment, capture_output=True, text=True, timeout=20)

    done = run("--manifest-sha256", pinned)
    assert done.returncode == 0 and done.stdout == ""
    assert "3 files" in done.stderr and "75000 bytes" in done.stderr
    assert run("--manifest-sha256", "f" * 64).returncode == 19
    assert run("--prefix", "nothing/here").returncode == 18
    assert run("--manifest-sha256", "xyz").returncode == 2
