"""A run's metrics from S3: its parts while it goes on, the whole file once there is one (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chronos_ec2.metrics_log import (
    PART_BYTES,
    WHOLE,
    MetricsLog,
    Record,
    parse_lines,
    part_name,
    sort_records,
)
from chronos_ec2.workstation.s3 import RecordUnreadable, get_bytes, get_json

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class PartsReader:
    """The new records of a run whose parts grow; a look costs one request where nothing has come.

    Args:
        prefix: the run's, ending in a slash.
    """

    def __init__(self, s3: S3Client, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, prefix
        self._number = 1
        self._offset = 0
        self._rest = b""

    def new_records(self) -> Iterator[Record]:
        """What was added since the last call.

        Raises:
            StorageUnreachable: S3 did not answer; what was not read comes with the next call.
            StorageDenied: S3 refused.
        """
        while True:
            key = self._prefix + part_name(self._number)
            found = get_bytes(self._s3, self._bucket, key, byte_range=f"bytes={self._offset}-")
            if found is None:
                return
            self._offset += len(found[0])
            lines, newline, rest = (self._rest + found[0]).rpartition(b"\n")
            self._rest = rest
            yield from parse_lines(lines + newline)
            if self._offset < PART_BYTES:
                return
            self._number, self._offset = self._number + 1, 0


def read_training(s3: S3Client, bucket: str, prefix: str) -> dict[str, Any]:
    """A run's training.json; empty where it left none that can be read.

    Raises:
        StorageDenied: S3 refused.
    """
    try:
        return get_json(s3, bucket, f"{prefix}training.json") or {}
    except RecordUnreadable:
        return {}


def read_metrics(s3: S3Client, bucket: str, prefix: str) -> MetricsLog:
    """All that a run has measured: of a run that crashed, as far as its parts came.

    Args:
        prefix: the run's, ending in a slash.

    Raises:
        StorageUnreachable: S3 did not answer.
        StorageDenied: S3 refused.
    """
    whole = get_bytes(s3, bucket, prefix + WHOLE)
    if whole is not None:
        return sort_records(parse_lines(whole[0]))
    return sort_records(PartsReader(s3, bucket, prefix).new_records())
