"""Files to the bucket: several at once, none that is there already, large ones in parts that go only once.

What is there is seen in one listing, by size and ETag (content.py). All of it has its sha256 as metadata too,
for a bucket whose ETags are no MD5s. A body is checked against what the file held when it was
looked at before it is sent, so nothing else is ever stored under its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chronos_ec2.errors import NotUploaded
from chronos_ec2.workstation.content import Content, Digests, mark_of, part_bytes_of
from chronos_ec2.workstation.multipart import send_in_parts
from chronos_ec2.workstation.s3 import StoredObject, get_bytes, head, in_parallel, list_prefix, translated
from chronos_ec2.workstation.upload_progress import Progress, Silent

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PARTS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send: its name under the prefix, and what it held when it was looked at.

    Attributes:
        mark: what `mark_of` said before its digest was taken.
    """

    name: str
    path: Path
    content: Content
    bytes: int
    mark: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Its sha256, in hex."""
        return self.content.sha256


def look(name: str, path: Path, digests: Digests | None = None) -> LocalFile:
    """Take a file's digests.

    Raises:
        NotUploaded: it cannot be read.
    """
    try:
        mark = mark_of(path)
        content = (digests or Digests()).of(path)
    except OSError as error:
        raise NotUploaded(f"{path} cannot be read: {error.strerror}") from error
    return LocalFile(name, path, content, mark[0], mark)


def send_all(
    s3: S3Client,
    bucket: str,
    prefix: str,
    files: Sequence[LocalFile],
    progress: Progress | None,
    *,
    manifest: str | None = None,
) -> list[bool]:
    """Send the files that the bucket does not hold yet.

    Args:
        manifest: the key of the manifest that names the files for an instance. When a file is about to be
            written over, it is deleted first: an upload that breaks off leaves nothing that a launch takes.

    Returns:
        For each file whether it was sent.

    Raises:
        NotUploaded: one changed meanwhile, or did not arrive whole.
        StorageDenied: S3 refused.
    """
    progress = progress or Silent()
    held = {item.key: item for item in list_prefix(s3, bucket, prefix)}
    wanted = in_parallel(lambda file: not _is_there(s3, bucket, prefix, file, held), files)
    sending = [file for file, needed in zip(files, wanted, strict=True) if needed]
    if manifest in held and any(f"{prefix}{file.name}" in held for file in sending):
        with translated(f"s3://{bucket}/{manifest}"):
            s3.delete_object(Bucket=bucket, Key=manifest)

    def send(file: LocalFile) -> None:
        _send(s3, bucket, f"{prefix}{file.name}", file, progress.advance)
        progress.end_file(file.name)

    with progress.of(len(sending), sum(file.bytes for file in sending)):
        in_parallel(send, [file for file in sending if len(file.content.parts) == 1])
        for file in sending:
            if len(file.content.parts) > 1:  # its parts go side by side
                send(file)
    changed = [str(file.path) for file in files if not file.path.is_file() or mark_of(file.path) != file.mark]
    if changed:
        raise NotUploaded(_changed(", ".join(changed)))
    return wanted


def _is_there(s3: S3Client, bucket: str, prefix: str, file: LocalFile, held: dict[str, StoredObject]) -> bool:
    item = held.get(f"{prefix}{file.name}")
    if item is None or item.bytes != file.bytes:
        return False
    if item.etag == file.content.etag:
        return True
    # An ETag that is no MD5 (a KMS key), or of parts of another size, says nothing: what an upload from here
    # has stored says its sha256 as well.
    described = head(s3, bucket, item.key) or {}
    is_md5 = described.get("ServerSideEncryption", "AES256") == "AES256" and "-" not in item.etag
    return not is_md5 and described.get("Metadata", {}).get("sha256") == file.sha256


def _send(s3: S3Client, bucket: str, key: str, file: LocalFile, sent: Callable[[int], None]) -> None:
    def read(path: Path, offset: int, length: int) -> bytes:
        body = _read(path, offset, length)
        part = file.content.parts[offset // part_bytes_of(file.bytes)]
        if hashlib.md5(body, usedforsecurity=False).hexdigest() != part:
            raise NotUploaded(_changed(str(path)))
        return body

    if len(file.content.parts) > 1:
        etag = send_in_parts(s3, bucket, key, file.path, file.content, file.bytes, read, sent)
    else:
        body = read(file.path, 0, file.bytes)
        with translated(f"s3://{bucket}/{key}"):
            answer = s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"sha256": file.sha256})
        etag = answer["ETag"].strip('"')
        sent(file.bytes)
    if etag != file.content.etag:  # under a KMS key it is no MD5
        held = head(s3, bucket, key)
        if held is None or held["ContentLength"] != file.bytes:
            raise NotUploaded(
                f"{file.path} did not arrive whole as s3://{bucket}/{key}; run the upload again"
            )


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise NotUploaded(f"{path} cannot be read any more: {error.strerror}") from error


def _changed(paths: str) -> str:
    return f"changed while it was uploaded: {paths}; run the upload again"


def put_manifest(s3: S3Client, bucket: str, key: str, body: bytes, content_type: str) -> None:
    """Write a manifest unless the bucket holds the same one."""
    held = get_bytes(s3, bucket, key)
    if held is None or held[0] != body:
        with translated(f"s3://{bucket}/{key}"):
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)
