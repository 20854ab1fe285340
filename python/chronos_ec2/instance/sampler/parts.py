"""Sends a growing file of lines to S3 as numbered parts, of which only the newest is ever sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chronos_ec2.metrics_log import PART_BYTES, part_name


class PartsUpload:
    """One file under one prefix.

    Args:
        client: a boto3 S3 client.
        bucket, prefix: where to; the prefix ends in a slash.
        file: only ever appended to, by whole lines or pieces of them.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, file: Path) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._file = file
        self._number = 1
        self._start = 0
        self._sent = 0

    def send_new(self) -> None:
        """Send the lines that have come since the last call; a failure is made good by the next one.

        Raises:
            ClientError, BotoCoreError: S3 did not take them.
            OSError: the file cannot be read.
        """
        while True:
            lines = self._lines()
            full = len(lines) >= PART_BYTES
            if len(lines) > self._sent:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + part_name(self._number),
                    Body=lines,
                    ContentType="application/jsonl",
                    Tagging="chronos-class=log",
                )
                self._sent = len(lines)
            if not full:
                return
            self._number, self._start, self._sent = self._number + 1, self._start + len(lines), 0

    def _lines(self) -> bytes:
        """The whole lines of the part that is being filled, up to the one that fills it."""
        lines = bytearray()
        try:
            with self._file.open("rb") as file:
                file.seek(self._start)
                while len(lines) < PART_BYTES and (line := file.readline()).endswith(b"\n"):
                    lines += line
        except FileNotFoundError:
            return b""
        return bytes(lines)
