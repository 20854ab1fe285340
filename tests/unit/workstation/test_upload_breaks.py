"""Uploads that break off: nothing half-uploaded can be launched, and what is there is not sent again."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from test_upload import Died, Dying, parquet

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import NotUploaded
from chronos_ec2.workstation import content, transfer
from chronos_ec2.workstation.content import Digests, read_content
from chronos_ec2.workstation.transfer import look, send_all
from chronos_ec2.workstation.upload import DATA_PREFIX, upload_data
from chronos_ec2.workstation.upload_progress import Bar, Lines, upload_progress

KEY = f"{DATA_PREFIX}MANIFEST.json"


class Counting:
    """An S3 client that counts the requests of each kind; its process ends at the n-th of them."""

    def __init__(self, s3: Any, ends_at: int = -1) -> None:
        self.requests: list[str] = []
        self._lock = Lock()
        self._s3, self._ends_at = s3, ends_at
        self._emitter = s3.meta.events
        self._emitter.register("before-send.s3", self._hear)

    def _hear(self, event_name: str, **_: Any) -> None:
        with self._lock:
            self.requests.append(event_name.rpartition(".")[2])
            if len(self.requests) > self._ends_at >= 0:
                raise Died

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def close(self) -> None:
        self._emitter.unregister("before-send.s3", self._hear)


def send(world: Any, s3: Any, folder: Path) -> None:
    upload_data(s3, world.bucket, folder, 100, Columns(), out=io.StringIO(), now=world.clock.now)


def launchable(world: Any) -> bool:
    """Whether a launch would take the data; then all of it must be as its manifest says."""
    if KEY not in world.keys(DATA_PREFIX):
        return False
    for item in json.loads(world.get(KEY))["files"]:
        body = world.get(f"{DATA_PREFIX}{item['name']}")
        assert (len(body), hashlib.sha256(body).hexdigest()) == (item["bytes"], item["sha256"])
    return True


def test_whatever_request_an_upload_ends_at_what_can_be_launched_is_whole(world: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("a", "b"):
        parquet(folder, f"{name}.parquet", item=name)
    send(world, world.real_s3, folder)
    assert launchable(world)
    before = world.get(KEY)
    ended, at = [], 0
    while True:
        parquet(folder, "b.parquet", item="b", value=float(at + 2))
        parquet(folder, f"new{at}.parquet", item=f"new{at}")
        counting = Counting(world.real_s3, at)
        try:
            send(world, counting, folder)
            died = False
        except Died:
            died = True
        finally:
            counting.close()
        if not died:
            break
        ended.append(launchable(world))
        at += 1
        send(world, world.real_s3, folder)  # the next upload makes it whole again
        assert launchable(world) and world.get(KEY) != before
    assert True in ended and False in ended  # before and after the manifest's withdrawal
    assert len(ended) >= 6


def test_one_changed_byte_in_many_files_is_one_request_beside_the_listing(world: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:03}" for number in range(60)]
    for path in paths:
        path.write_bytes(path.name.encode() * 50)

    def upload() -> list[str]:
        counting = Counting(world.real_s3)
        try:
            send_all(counting, world.bucket, "p/", [look(path.name, path) for path in paths], None)  # type: ignore[arg-type]
        finally:
            counting.close()
        return sorted(counting.requests)

    assert upload() == ["ListObjectsV2", *["PutObject"] * 60]
    assert upload() == ["ListObjectsV2"]
    body = bytearray(paths[7].read_bytes())
    body[3] ^= 1
    paths[7].write_bytes(body)
    # The one whose size is the same and whose ETag is not is asked for once.
    assert upload() == ["HeadObject", "ListObjectsV2", "PutObject"]
    assert world.get("p/007") == bytes(body)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of four parts."""
    monkeypatch.setattr(content, "PART_BYTES", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 16)
    return path


def send_large(world: Any, path: Path, ends_at: Callable[[str, dict[str, Any]], bool]) -> list[int]:
    """Upload a file; the numbers of the parts that were sent."""
    sent: list[int] = []

    def hear(name: str, kwargs: dict[str, Any]) -> bool:
        if ends_at(name, kwargs):
            return True
        if name == "upload_part":
            sent.append(kwargs["PartNumber"])
        return False

    try:
        send_all(Dying(world.real_s3, hear), world.bucket, "p/", [look("large", path)], None)  # type: ignore[arg-type]
    except Died:
        sent.append(0)
    return sorted(sent)


def test_the_parts_that_are_there_are_not_sent_again(world: Any, large: Path) -> None:
    broken = send_large(world, large, lambda name, kwargs: name == "complete_multipart_upload")
    assert broken == [0, 1, 2, 3, 4]
    assert send_large(world, large, lambda *_: False) == []
    assert world.get("p/large") == large.read_bytes()
    assert world.real_s3.list_multipart_uploads(Bucket=world.bucket).get("Uploads", []) == []
    assert send_large(world, large, lambda *_: False) == []


def test_only_the_missing_parts_are_sent(world: Any, large: Path) -> None:
    broken = send_large(
        world, large, lambda name, kwargs: name == "upload_part" and kwargs["PartNumber"] == 3
    )
    assert 0 in broken and 3 not in broken
    there = {number for number in broken if number}
    assert set(send_large(world, large, lambda *_: False)) == {1, 2, 3, 4} - there
    assert world.get("p/large") == large.read_bytes()


def test_an_unfinished_upload_of_another_content_is_not_taken_up(world: Any, large: Path) -> None:
    send_large(world, large, lambda name, kwargs: name == "complete_multipart_upload")
    body = bytearray(large.read_bytes())
    body[-1] ^= 1
    large.write_bytes(body)
    assert send_large(world, large, lambda *_: False) == [1, 2, 3, 4]
    assert world.get("p/large") == bytes(body)
    assert len(world.real_s3.list_multipart_uploads(Bucket=world.bucket)["Uploads"]) == 1  # left to the rule


def test_a_file_that_changes_before_its_turn_is_not_stored(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    seen = look("a", path)
    path.write_bytes(b"two")
    with pytest.raises(NotUploaded, match="changed while it was uploaded"):
        send_all(world.real_s3, world.bucket, "p/", [seen], None)
    assert world.keys() == []


def test_under_a_key_of_kms_an_etag_says_nothing_and_the_metadata_is_asked(
    world: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    file = look("a", path)
    described = {"ServerSideEncryption": "aws:kms", "Metadata": {"sha256": file.sha256}}
    held = {"p/a": transfer.StoredObject("p/a", 7, "0" * 32, world.clock.now())}

    class Kms:
        def head_object(self, **_: Any) -> dict[str, Any]:
            return described

    assert transfer._is_there(Kms(), world.bucket, "p/", file, held)  # type: ignore[arg-type]
    described["ServerSideEncryption"] = "AES256"
    assert not transfer._is_there(Kms(), world.bucket, "p/", file, held)  # type: ignore[arg-type]


def test_what_went_in_parts_says_its_sha256_too(world: Any, large: Path) -> None:
    send_large(world, large, lambda *_: False)
    described = world.real_s3.head_object(Bucket=world.bucket, Key="p/large")
    assert described["Metadata"] == {"sha256": look("large", large).sha256}
    assert "-" in described["ETag"]


# Digests


def test_an_unchanged_file_is_not_read_again_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "a", tmp_path / "kept" / "digests.json"
    path.write_bytes(b"content")
    later = path.stat().st_ctime + 60
    first = Digests(kept, lambda: later)
    found = first.of(path)
    assert found == read_content(path)
    first.save()
    with monkeypatch.context() as no_reading:
        no_reading.setattr(content, "read_content", lambda _: pytest.fail("read again"))
        assert Digests(kept).of(path) == found
    path.write_bytes(b"CONTENT")
    assert Digests(kept).of(path).sha256 == hashlib.sha256(b"CONTENT").hexdigest()


def test_a_file_of_this_moment_is_read_again_by_the_next_command(tmp_path: Path) -> None:
    path, kept = tmp_path / "a", tmp_path / "digests.json"
    path.write_bytes(b"content")
    digests = Digests(kept, lambda: path.stat().st_ctime)
    digests.of(path)
    digests.save()
    assert not kept.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [1, 2]}', '{"a": [null, "", []]}'])
def test_digests_that_are_not_to_be_read_are_taken_anew(tmp_path: Path, text: str) -> None:
    path, kept = tmp_path / "a", tmp_path / "digests.json"
    path.write_bytes(b"content")
    kept.write_text(text)
    assert Digests(kept).of(path).sha256 == hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (5 << 20) + 1, 10 << 20])
def test_the_etag_is_that_of_s3(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(content, "PART_BYTES", 5 << 20)
    path = tmp_path / "a"
    path.write_bytes(os.urandom(size))
    send_all(world.real_s3, world.bucket, "p/", [look("a", path)], None)
    held = world.real_s3.head_object(Bucket=world.bucket, Key="p/a")
    assert held["ETag"].strip('"') == look("a", path).content.etag


def test_a_part_grows_when_ten_thousand_of_them_are_too_few() -> None:
    assert content.part_bytes_of(1) == content.PART_BYTES
    size = 5 * 10**12
    assert -(-size // content.part_bytes_of(size)) <= 10_000


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_long_upload_says_a_line_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    lines = Lines(out, lambda: now[0])
    with lines.of(2, 4_000_000):
        lines.advance(500_000)
        now[0] = 20.0
        lines.end_file("a")
        lines.advance(1_500_000)
        lines.advance(1_000_000)  # not yet time for another
        lines.advance(1_000_000)  # the summary says the end
    assert out.getvalue() == "2.0 MB of 4.0 MB, 1 of 2 files, 100.0 kB/s, 20 s left\n"


def test_on_a_terminal_there_is_a_bar_with_bytes_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    bar = upload_progress(out)
    assert isinstance(bar, Bar)
    with bar.of(2, 2_000_000):
        bar.advance(1_000_000)
        bar.end_file("a")
        bar._bar.refresh()
    assert "1.0/2.0 MB" in out.getvalue() and "1/2 files" in out.getvalue()
    assert "\x1b[3" not in out.getvalue()  # no colour
    assert isinstance(upload_progress(io.StringIO()), Lines)
