"""A run's log in S3: objects of one size, of which the last grows; shell/lib/companions.sh writes them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from chronos_ec2.workstation.s3 import get_bytes, get_tail, head

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LOG_PART_BYTES: Final = 8 << 20
"""A part with so many bytes is full, and the next one goes on."""
CHUNK_BYTES: Final = 4 << 20


def log_part_key(key: str, number: int) -> str:
    """The key of a log's part, as shell/lib/companions.sh has it: the log's own, then `.00002` and so on."""
    return key if number == 1 else f"{key}.{number:05d}"


class LogReader:
    """The new bytes of a log that only grows; the object that grows is written whole again and again."""

    def __init__(self, s3: S3Client, bucket: str, key: str) -> None:
        self._s3, self._bucket, self._key = s3, bucket, key
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._part = 1
        self.offset = 0
        self.found = False
        self.restarted = False

    def new_text(self) -> Iterator[str]:
        """What was added since the last call, in pieces; from the start again if the log shrank."""
        while True:
            key = log_part_key(self._key, self._part)
            headers = head(self._s3, self._bucket, key)
            if headers is None:
                return
            self.found = True
            size = int(headers["ContentLength"])
            if size < self.offset:
                self.restarted = True
                self._part, self.offset = 1, 0
                self._decoder.reset()
                continue
            while self.offset < size:
                wanted = f"bytes={self.offset}-{self.offset + CHUNK_BYTES - 1}"
                piece = get_bytes(self._s3, self._bucket, key, byte_range=wanted)
                if piece is None or not piece[0]:
                    return
                self.offset += len(piece[0])
                yield self._decoder.decode(piece[0])
            if self.offset < LOG_PART_BYTES:
                return
            self._part, self.offset = self._part + 1, 0


class LogTail:
    """The last bytes of a log that grows; a look is one request, or two where a part has just become full."""

    def __init__(self, s3: S3Client, bucket: str, key: str) -> None:
        self._s3, self._bucket, self._key = s3, bucket, key
        self._part = 1

    def read(self, count: int) -> bytes:
        """The last `count` bytes, or fewer where a part has just begun; nothing when there is no log."""
        text = b""
        while True:
            found = get_tail(self._s3, self._bucket, log_part_key(self._key, self._part), count)
            if found is None:
                self._part = max(1, self._part - 1)
                return text
            text = (text + found[0])[-count:]
            if found[1] < LOG_PART_BYTES:
                return text
            self._part += 1
