"""A large file to the bucket in parts; an upload that was broken off goes on where it was.

S3 keeps the parts of an unfinished upload and tells the MD5 of each. An upload whose parts are all this
file's is taken up, whoever began it, and only the parts that are missing are sent. Others are left: somebody
may be at them, and what nobody finishes is dropped by a lifecycle rule (cdk/chronos_cdk/storage.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from chronos_ec2.errors import NotUploaded, StorageDenied
from chronos_ec2.workstation.content import Content, part_bytes_of
from chronos_ec2.workstation.s3 import MISSING_CODES, error_code, in_parallel, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GONE = MISSING_CODES | {"NoSuchUpload"}


def send_in_parts(
    s3: S3Client,
    bucket: str,
    key: str,
    path: Path,
    content: Content,
    size: int,
    read: Callable[[Path, int, int], bytes],
    sent: Callable[[int], None],
) -> str:
    """Send a file of more than one part.

    Args:
        content: what the file held when it was looked at.
        size: its bytes.
        read: gives a part's bytes (path, offset, length), checked against `content`.
        sent: called with the bytes of each part that is in the bucket.

    Returns:
        The object's ETag, without quotes.

    Raises:
        NotUploaded: the upload was ended by somebody else.
        StorageDenied: S3 refused.
    """
    where, step = f"s3://{bucket}/{key}", part_bytes_of(size)
    upload_id, etags = _take_up(s3, bucket, key, content) or (_begin(s3, bucket, key, content), {})
    sizes = {number: min(step, size - (number - 1) * step) for number in range(1, len(content.parts) + 1)}
    for number in etags:
        sent(sizes[number])

    def send(number: int) -> tuple[int, str]:
        body = read(path, (number - 1) * step, sizes[number])
        with translated(where):
            answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body)
        sent(sizes[number])
        return number, answer["ETag"]

    etags.update(in_parallel(send, [number for number in sizes if number not in etags]))
    parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
    with translated(where):
        try:
            done = s3.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
            )
        except ClientError as error:
            if error_code(error) in _GONE:
                raise NotUploaded(
                    f"the upload of {where} was ended by somebody else; run it again"
                ) from error
            raise
    return done["ETag"].strip('"')


def _begin(s3: S3Client, bucket: str, key: str, content: Content) -> str:
    with translated(f"s3://{bucket}/{key}"):
        answer = s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"sha256": content.sha256})
    return answer["UploadId"]


def _take_up(s3: S3Client, bucket: str, key: str, content: Content) -> tuple[str, dict[int, str]] | None:
    """An unfinished upload of this content: its id, and the ETags of its parts by their number."""
    try:
        with translated(f"s3://{bucket}/{key}"):
            pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key)
            found = [item for page in pages for item in page.get("Uploads", []) if item["Key"] == key]
    except StorageDenied:  # who may not list them begins anew
        return None
    for upload in sorted(found, key=lambda item: item["Initiated"], reverse=True):
        parts = _parts_of(s3, bucket, key, upload["UploadId"])
        if parts and all(_is_part(part, content) for part in parts):
            return upload["UploadId"], {part["PartNumber"]: part["ETag"] for part in parts}
    return None


def _parts_of(s3: S3Client, bucket: str, key: str, upload_id: str) -> list[Any]:
    try:
        with translated(f"s3://{bucket}/{key}"):
            try:
                pages = s3.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
                return [part for page in pages for part in page.get("Parts", [])]
            except ClientError as error:
                if error_code(error) in _GONE:  # ended meanwhile
                    return []
                raise
    except StorageDenied:
        return []


def _is_part(part: Mapping[str, Any], content: Content) -> bool:
    number = int(part["PartNumber"])
    return number <= len(content.parts) and part["ETag"].strip('"') == content.parts[number - 1]
