"""The instance's S3 client, and what its errors mean to a person."""

from __future__ import annotations

from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError, StorageDenied
from chronos_ec2.instance.request_count import count_requests

_DENIED: Final = frozenset({"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId"})
MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})


def make_client(*, connections: int = 10, impatient: bool = False) -> Any:
    """An S3 client; region, credentials and endpoint come from the standard AWS variables.

    Args:
        connections: how many calls may run at once.
        impatient: short time-outs and a single try, for callers that do their own retries.
    """
    config = Config(
        max_pool_connections=connections,
        connect_timeout=5 if impatient else 10,
        read_timeout=10 if impatient else 60,
        retries={"total_max_attempts": 1 if impatient else 6, "mode": "standard"},
    )
    client = boto3.client("s3", config=config)
    count_requests(client)
    return client


def error_code(error: Exception) -> str:
    """The service's code for an error, or nothing."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def explain(error: ClientError | BotoCoreError, what: str) -> ChronosError:
    """Put an AWS error into words: what failed, why, and the right exit code."""
    if error_code(error) in _DENIED:
        return StorageDenied(f"S3 refused {what}: {error}; check the instance profile's rights")
    return ChronosError(f"{what} failed: {error}")
