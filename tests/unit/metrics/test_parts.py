"""The metrics' parts: on the instance sent as the file grows, on the laptop put together again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chronos_ec2.instance.sampler.parts import PartsUpload
from chronos_ec2.metrics_log import PART_BYTES, part_name

LINE = b'{"event": "metric", "step": 1}\n'


class Bucket:
    """The one call that the upload makes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.sent_bytes = 0
        self.puts: list[str] = []
        self.fails = 0

    def put_object(self, **call: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise EndpointConnectionError(endpoint_url="https://s3")
        assert (call["Bucket"], call["Tagging"]) == ("a-bucket", "chronos-class=log")
        self.objects[call["Key"]] = call["Body"]
        self.sent_bytes += len(call["Body"])
        self.puts.append(call["Key"].removeprefix("dev/RUN/"))

    @property
    def joined(self) -> bytes:
        return b"".join(self.objects[key] for key in sorted(self.objects))


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def upload(bucket: Bucket, tmp_path: Path) -> PartsUpload:
    return PartsUpload(bucket, "a-bucket", "dev/RUN/", tmp_path / "metrics.jsonl")


def add(folder: Path, data: bytes) -> None:
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(data)


def test_nothing_is_sent_where_nothing_has_come(upload: PartsUpload, bucket: Bucket, tmp_path: Path) -> None:
    upload.send_new()
    add(tmp_path, b'{"half')
    upload.send_new()
    assert bucket.puts == []
    add(tmp_path, b'": 1}\n')
    upload.send_new()
    upload.send_new()
    assert bucket.puts == [part_name(1)] and bucket.joined == b'{"half": 1}\n'


def test_a_full_part_is_never_sent_again_and_the_parts_are_the_whole(
    upload: PartsUpload, bucket: Bucket, tmp_path: Path
) -> None:
    rounds, lines_a_round = 60, 1000
    for number in range(rounds):
        add(tmp_path, LINE * lines_a_round + b'{"half')
        upload.send_new()
        add(tmp_path, b'": %d}\n' % number)
    upload.send_new()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    assert bucket.joined == whole
    parts = sorted(bucket.objects)
    assert len(parts) > 5
    for key in parts[:-1]:
        assert PART_BYTES <= len(bucket.objects[key]) < PART_BYTES + len(LINE)
        assert bucket.objects[key].endswith(b"\n")
    assert len(bucket.objects[parts[-1]]) < PART_BYTES
    # Each call sends one part at most again; a file written whole each time would have sent half the square.
    assert bucket.sent_bytes < rounds * (PART_BYTES + 2 * lines_a_round * len(LINE))
    assert bucket.puts == sorted(bucket.puts)


def test_what_s3_did_not_take_comes_with_the_next_call(
    upload: PartsUpload, bucket: Bucket, tmp_path: Path
) -> None:
    add(tmp_path, LINE * (PART_BYTES // len(LINE) + 10))
    bucket.fails = 1
    with pytest.raises(EndpointConnectionError):
        upload.send_new()
    add(tmp_path, LINE)
    upload.send_new()
    assert bucket.joined == (tmp_path / "metrics.jsonl").read_bytes()
    assert len(bucket.objects) == 2
