"""The few S3 calls that every verb needs, and AWS errors turned into words a person can act on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    LoginError,
    MissingDependencyException,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as AwsConnectionError,
)
from botocore.parsers import ResponseParserError

from chronos_ec2.errors import ChronosError, LocalCloudDown, NoCredentials, NotDeployed, StorageDenied
from chronos_ec2.state.json_text import decode_json

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
WORKERS: Final = 8
MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})
LOST_CODES: Final = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
NO_RANGE_CODES: Final = frozenset({"416", "InvalidRange"})
_DENIED_CODES: Final = frozenset({"403", "AccessDenied", "AllAccessDisabled", "UnauthorizedOperation"})
_CREDENTIAL_CODES: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidAccessKeyId", "InvalidToken"}
    | {"InvalidClientTokenId", "SignatureDoesNotMatch", "TokenRefreshRequired", "AuthFailure"}
)
_REGION_CODES: Final = frozenset({"301", "PermanentRedirect", "AuthorizationHeaderMalformed"})
_TRANSIENT_CODES: Final = frozenset(
    {"500", "502", "503", "504", "InternalError", "SlowDown", "ServiceUnavailable", "Unavailable"}
    | {"RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
)
_CREDENTIAL_ERRORS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    SSOError,
    TokenRetrievalError,
    LoginError,
    InvalidConfigError,
    MissingDependencyException,
)


class StorageUnreachable(ChronosError):
    """AWS did not answer, or answered that it cannot just now; the same call may work later."""


class RecordUnreadable(ChronosError):
    """An object that should hold JSON does not."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One line of a bucket listing."""

    key: str
    bytes: int
    etag: str
    modified: datetime


def error_code(error: ClientError) -> str:
    """The service's code for an error, `NoSuchKey` or `412`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def translate(error: ClientError | BotoCoreError, where: str) -> ChronosError:
    """The project's error for one of botocore's.

    Args:
        error: what the client raised.
        where: what was touched, for the message: `s3://bucket/key`.
    """
    if isinstance(error, ClientError):
        return _translate_answer(error, where)
    if isinstance(error, _CREDENTIAL_ERRORS):
        return NoCredentials(f"no AWS credentials for {where}: {error}. Sign in, or set AWS_PROFILE")
    if isinstance(error, HTTPClientError | AwsConnectionError):
        endpoint = str(error.kwargs.get("endpoint_url", ""))
        if urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1"):
            return LocalCloudDown(f"nothing answers at {endpoint}; start it with invoke local.start")
        return StorageUnreachable(f"AWS does not answer for {where}: {error}")
    if type(error).__name__ in ("IncompleteReadError", "ResponseStreamingError", "FlexibleChecksumError"):
        return StorageUnreachable(f"the answer for {where} did not arrive whole: {error}")
    return ChronosError(f"{where}: {error}")


def _translate_answer(error: ClientError, where: str) -> ChronosError:
    code = error_code(error)
    if code in _CREDENTIAL_CODES:
        return NoCredentials(f"AWS refused the credentials ({code}) for {where}. Sign in again")
    if code in _DENIED_CODES:
        return StorageDenied(
            f"AWS refused {error.operation_name} on {where} ({code}). The signed-in user needs that right; "
            f"for S3 also s3:ListBucket, without which a missing object answers 403"
        )
    if code == "NoSuchBucket":
        return NotDeployed(f"there is no bucket behind {where}; make it with invoke deploy")
    if code in _REGION_CODES:
        return ChronosError(f"{where} lies in another region ({error}); check the setting region")
    if code in _TRANSIENT_CODES:
        return StorageUnreachable(f"AWS could not do {error.operation_name} on {where} just now ({code})")
    return ChronosError(f"{error.operation_name} on {where} failed: {error}")


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise the project's errors for botocore's inside the block."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise translate(error, where) from error
    except ResponseParserError as error:
        raise StorageUnreachable(f"what answers for {where} is not AWS (a proxy?): {error}") from error


def get_bytes(
    s3: S3Client, bucket: str, key: str, *, byte_range: str | None = None
) -> tuple[bytes, str] | None:
    """An object's bytes and ETag; None when it is absent, no bytes when the range is past its end.

    Args:
        byte_range: as in a Range header, `bytes=100-` or `bytes=-4096`.

    Raises:
        StorageDenied: S3 refused; a refusal is never taken for absence.
    """
    wanted = {"Bucket": bucket, "Key": key, **({"Range": byte_range} if byte_range else {})}
    with translated(f"s3://{bucket}/{key}"):
        try:
            answer = s3.get_object(**wanted)  # type: ignore[arg-type]
        except ClientError as error:
            if error_code(error) in MISSING_CODES:
                return None
            if error_code(error) in NO_RANGE_CODES:
                return b"", ""
            raise
        return answer["Body"].read(), answer["ETag"]


def get_tail(s3: S3Client, bucket: str, key: str, count: int) -> tuple[bytes, int] | None:
    """An object's last `count` bytes, and how many it has; None when it is absent.

    Raises:
        StorageDenied: S3 refused.
    """
    with translated(f"s3://{bucket}/{key}"):
        try:
            answer = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=-{count}")
        except ClientError as error:
            if error_code(error) in MISSING_CODES:
                return None
            if error_code(error) in NO_RANGE_CODES:  # of an empty object
                return b"", 0
            raise
        body = answer["Body"].read()
        return body, int(answer.get("ContentRange", f"/{len(body)}").rpartition("/")[2])


def get_json(s3: S3Client, bucket: str, key: str) -> dict[str, Any] | None:
    """A decoded JSON object, or None when there is none.

    Raises:
        RecordUnreadable: what is there is not a JSON object.
        StorageDenied: S3 refused the read.
    """
    found = get_bytes(s3, bucket, key)
    return None if found is None else decode_object(found[0], f"s3://{bucket}/{key}")


def decode_object(body: bytes, where: str) -> dict[str, Any]:
    """Decode bytes that should be a JSON object, or raise `RecordUnreadable`."""
    try:
        value = decode_json(body)
    except (ValueError, RecursionError) as error:
        raise RecordUnreadable(f"{where} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RecordUnreadable(f"{where} holds a JSON {type(value).__name__}, not an object")
    return value


def put_json(
    s3: S3Client, bucket: str, key: str, value: Mapping[str, Any], *, if_match: str | None = None
) -> bool:
    """Write JSON; with `if_match` only over that ETag.

    Returns:
        False when another writer was faster and nothing was written.
    """
    condition = {"IfMatch": if_match} if if_match else {}
    body = (json.dumps(value, indent=2) + "\n").encode()
    with translated(f"s3://{bucket}/{key}"):
        try:
            s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=body,
                ContentType="application/json",
                **condition,  # type: ignore[arg-type]
            )
        except ClientError as error:
            if if_match and error_code(error) in LOST_CODES | MISSING_CODES:
                return False
            raise
    return True


def head(s3: S3Client, bucket: str, key: str) -> Mapping[str, Any] | None:
    """An object's headers, or None when it is absent."""
    with translated(f"s3://{bucket}/{key}"):
        try:
            return s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error_code(error) in MISSING_CODES:
                return None
            raise


def list_prefix(s3: S3Client, bucket: str, prefix: str) -> list[StoredObject]:
    """Every object under a prefix, however many pages that takes."""
    found: list[StoredObject] = []
    with translated(f"s3://{bucket}/{prefix}"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                etag = item["ETag"].strip('"')
                found.append(StoredObject(item["Key"], item["Size"], etag, item["LastModified"]))
    return found


def list_folders(s3: S3Client, bucket: str, prefix: str, first: str = "") -> list[str]:
    """The names right under a prefix that end in `/`, without the slash, in their order.

    Args:
        first: begin there; S3 does not list what comes before it.
    """
    names: list[str] = []
    with translated(f"s3://{bucket}/{prefix}"):
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, Delimiter="/", StartAfter=f"{prefix}{first}" if first else ""
        )
        for page in pages:
            names.extend(item["Prefix"][len(prefix) : -1] for item in page.get("CommonPrefixes", []))
    return names


def in_parallel(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int = WORKERS
) -> list[_Result]:
    """`work` for every item on a few threads, results in the items' order.

    The first failure is raised once the calls under way have ended; calls not yet begun are dropped.
    """
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
