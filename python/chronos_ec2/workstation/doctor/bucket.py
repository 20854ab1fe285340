"""The bucket, and whether it keeps what the state protocol rests on."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from chronos_ec2.workstation.doctor.answers import ApiError
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.stack import anew_command

_BLOCKS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
# S3 deletes what lies under logs/ after a while, so that nothing stays should the doctor be killed.
PROBE_PREFIX: Final = "logs/doctor/"
_REFUSED: Final = ("412", "PreconditionFailed")


def bucket(facts: Facts) -> list[Finding]:
    """Whether the bucket is there, in the region."""
    name, region = facts.bucket, facts.settings.region
    try:
        answer = facts.ask("s3", "head_bucket", Bucket=name)
    except ApiError as refusal:
        if refusal.code not in ("404", "NoSuchBucket", "NotFound"):
            raise
        return [error(f"{name} does not exist", anew_command(facts))]
    found = answer.get("BucketRegion", region)
    if found != region:
        return [error(f"{name} lies in {found}, not in {region}", "set region in invoke.yaml")]
    return [ok(name)]


def bucket_privacy(facts: Facts) -> list[Finding]:
    """Whether the bucket is closed to the public, and encrypted."""
    name = facts.bucket
    block = _configuration(facts, "get_public_access_block", "NoSuchPublicAccessBlockConfiguration")
    blocked = block.get("PublicAccessBlockConfiguration", {})
    rules = _configuration(facts, "get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError")
    encrypted = rules.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    if open_ways := [way for way in _BLOCKS if not blocked.get(way)]:
        settings = ",".join(f"{way}=true" for way in _BLOCKS)
        return [
            error(
                f"{name} can be made public: {', '.join(open_ways)} off",
                f"aws s3api put-public-access-block --bucket {name} "
                f"--public-access-block-configuration {settings}",
            )
        ]
    if not encrypted:
        rule = '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}'
        return [
            warning(
                f"{name} names no default encryption",
                f"aws s3api put-bucket-encryption --bucket {name} "
                f"--server-side-encryption-configuration '{rule}'",
            )
        ]
    algorithm = encrypted[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]
    return [ok(f"closed to the public, encrypted ({algorithm})")]


def _configuration(facts: Facts, operation: str, absent: str) -> dict[str, Any]:
    try:
        return facts.ask("s3", operation, Bucket=facts.bucket)
    except ApiError as refusal:
        if refusal.code != absent:
            raise
        return {}


def conditional_writes(facts: Facts) -> list[Finding]:
    """Whether S3 really refuses the writes that must lose, tried on a key of its own.

    The same calls as the state file's: create-only and compare-and-swap CopyObject, conditional delete.
    """
    folder = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    name, staged, key = facts.bucket, f"{folder}/staged", f"{folder}/state"
    with _deleted_afterwards(facts, staged, key):
        facts.ask("s3", "put_object", Bucket=name, Key=staged, Body=b"{}")
        copy = {"Bucket": name, "Key": key, "CopySource": {"Bucket": name, "Key": staged}}
        facts.ask("s3", "copy_object", **copy, IfNoneMatch="*")
        put = {"Bucket": name, "Key": key}
        wrong = f'"{"0" * 32}"'
        kept = [
            ("a second create-only copy", _refused(facts, "copy_object", **copy, IfNoneMatch="*")),
            ("a copy over a wrong ETag", _refused(facts, "copy_object", **copy, IfMatch=wrong)),
            ("a put over a wrong ETag", _refused(facts, "put_object", **put, IfMatch=wrong)),
            (
                "a delete of a wrong ETag",
                _refused(facts, "delete_object", **put, IfMatch=wrong),
            ),
        ]
    if broken := [what for what, refused in kept if not refused]:
        return [
            error(
                f"S3 let pass what must be refused: {', '.join(broken)}; two launches could both win",
                f"aws configure list (is AWS_ENDPOINT_URL another S3 than AWS's in {facts.settings.region}?)",
            )
        ]
    return [ok("tried: create-only, compare-and-swap and conditional delete hold")]


def _refused(facts: Facts, operation: str, **arguments: Any) -> bool:
    try:
        facts.ask("s3", operation, **arguments)
    except ApiError as refusal:
        if refusal.code in _REFUSED:
            return True
        raise
    return False


@contextmanager
def _deleted_afterwards(facts: Facts, *keys: str) -> Iterator[None]:
    try:
        yield
    finally:
        for key in keys:
            with suppress(Exception):  # S3 deletes it in time; what went wrong before is what matters
                facts.ask("s3", "delete_object", Bucket=facts.bucket, Key=key)
