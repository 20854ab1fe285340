"""Files to the bucket: several at once, each with its sha256 as metadata, none that is there already.

The metadata says what an object holds, whatever its manifest says: an upload that broke off, or a hand
that replaced an object, is seen at the next upload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from chronos_ec2.errors import NotUploaded
from chronos_ec2.workstation.s3 import get_bytes, head, in_parallel, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Progress = Callable[[str, int, int], None]
PART_BYTES: Final = 16 << 20
PARTS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send: its name under the prefix, and what it held when it was looked at.

    Attributes:
        mark: what `mark_of` said before its digest was taken.
    """

    name: str
    path: Path
    sha256: str
    bytes: int
    mark: tuple[int, ...]


def look(name: str, path: Path) -> LocalFile:
    """Read a file for its digest.

    Raises:
        NotUploaded: it cannot be read.
    """
    try:
        mark = mark_of(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NotUploaded(f"{path} cannot be read: {error.strerror}") from error
    return LocalFile(name, path, sha256, mark[0], mark)


def mark_of(path: Path) -> tuple[int, ...]:
    """What changes when a file is written: size, times and inode."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def send_all(
    s3: S3Client, bucket: str, prefix: str, files: Sequence[LocalFile], progress: Progress | None
) -> list[bool]:
    """Send the files that the bucket does not hold yet.

    Returns:
        For each file whether it was sent.

    Raises:
        NotUploaded: one changed meanwhile, or did not arrive whole.
        StorageDenied: S3 refused.
    """
    results = in_parallel(lambda file: _send(s3, bucket, prefix, file, progress), files)
    changed = [str(file.path) for file in files if not file.path.is_file() or mark_of(file.path) != file.mark]
    if changed:
        raise NotUploaded(f"changed while it was uploaded: {', '.join(changed)}; run the upload again")
    return results


def _send(s3: S3Client, bucket: str, prefix: str, file: LocalFile, progress: Progress | None) -> bool:
    from boto3.s3.transfer import TransferConfig

    key = f"{prefix}{file.name}"
    held = head(s3, bucket, key)
    if (
        held is not None
        and held["ContentLength"] == file.bytes
        and held["Metadata"].get("sha256") == file.sha256
    ):
        return False
    config = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
    )
    extra = {"Metadata": {"sha256": file.sha256}}
    count = _counter(file, progress)
    try:
        with translated(f"s3://{bucket}/{key}"), file.path.open("rb") as body:
            s3.upload_fileobj(body, bucket, key, ExtraArgs=extra, Callback=count, Config=config)
    except OSError as error:
        raise NotUploaded(f"{file.path} cannot be read any more: {error.strerror}") from error
    held = head(s3, bucket, key)
    if held is None or held["ContentLength"] != file.bytes:
        raise NotUploaded(f"{file.path} did not arrive whole as s3://{bucket}/{key}; run the upload again")
    return True


def _counter(file: LocalFile, progress: Progress | None) -> Callable[[int], None]:
    """A callback for several threads that counts one file's bytes."""
    lock, sent = Lock(), 0

    def count(more: int) -> None:
        nonlocal sent
        with lock:
            sent += more
            if progress is not None:
                progress(file.name, sent, file.bytes)

    return count


def put_manifest(s3: S3Client, bucket: str, key: str, body: bytes, content_type: str) -> None:
    """Write a manifest unless the bucket holds the same one."""
    held = get_bytes(s3, bucket, key)
    if held is None or held[0] != body:
        with translated(f"s3://{bucket}/{key}"):
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)
