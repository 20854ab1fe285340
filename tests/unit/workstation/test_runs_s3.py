"""Errors of AWS become errors a person can act on; a refusal is never taken for absence."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    FlexibleChecksumError,
    LoginRefreshRequired,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from chronos_ec2.errors import ChronosError, LocalCloudDown, NoCredentials, NotDeployed, StorageDenied
from chronos_ec2.workstation import s3 as subject


@pytest.mark.parametrize("code", ["AccessDenied", "403", "AllAccessDisabled"])
def test_a_refused_read_is_denied_and_not_absent(world: Any, code: str) -> None:
    world.s3.fail("get_object", code)
    with pytest.raises(StorageDenied, match=r"GetObject on s3://chronos-test/a/b \("):
        subject.get_json(world.s3, world.bucket, "a/b")


def test_a_refused_head_is_denied_and_not_absent(world: Any) -> None:
    world.s3.fail("head_object", "403")
    with pytest.raises(StorageDenied):
        subject.head(world.s3, world.bucket, "a/b")


def test_a_missing_object_is_none(world: Any) -> None:
    assert subject.get_json(world.s3, world.bucket, "no/such") is None
    assert subject.head(world.s3, world.bucket, "no/such") is None


def test_a_missing_bucket_is_not_deployed_rather_than_a_missing_object(world: Any) -> None:
    with pytest.raises(NotDeployed, match="invoke deploy"):
        subject.get_json(world.s3, "no-such-bucket", "key")
    with pytest.raises(NotDeployed):
        subject.list_prefix(world.s3, "no-such-bucket", "")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (NoCredentialsError(), NoCredentials, "AWS_PROFILE"),
        (PartialCredentialsError(provider="env", cred_var="x"), NoCredentials, "AWS_PROFILE"),
        (TokenRetrievalError(provider="sso", error_msg="expired"), NoCredentials, "Sign in"),
        (UnauthorizedSSOTokenError(), NoCredentials, "Sign in"),
        (LoginRefreshRequired(), NoCredentials, "Sign in"),
        (FlexibleChecksumError(error_msg="x"), subject.StorageUnreachable, "did not arrive whole"),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:4"), LocalCloudDown, "invoke local.start"),
        (
            EndpointConnectionError(endpoint_url="https://s3.aws"),
            subject.StorageUnreachable,
            "does not answer",
        ),
        (ReadTimeoutError(endpoint_url="https://s3.aws"), subject.StorageUnreachable, "does not answer"),
    ],
)
def test_connection_and_credential_problems_are_told_apart(
    world: Any, error: Exception, kind: type[ChronosError], words: str
) -> None:
    world.s3.fail("get_object", error)
    with pytest.raises(kind, match=words):
        subject.get_bytes(world.s3, world.bucket, "key")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ExpiredToken", NoCredentials),
        ("SignatureDoesNotMatch", NoCredentials),
        ("SlowDown", subject.StorageUnreachable),
        ("503", subject.StorageUnreachable),
        ("PermanentRedirect", ChronosError),
        ("SomethingNew", ChronosError),
    ],
)
def test_codes_are_told_apart(code: str, kind: type[ChronosError]) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "m"}}, "GetObject")
    assert type(subject.translate(error, "s3://b/k")) is kind


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"[1]", b"null", b"[" * 200_000])
def test_what_is_not_a_json_object_is_named(world: Any, body: bytes) -> None:
    world.put("a/run.json", body)
    with pytest.raises(subject.RecordUnreadable, match=r"s3://chronos-test/a/run\.json"):
        subject.get_json(world.s3, world.bucket, "a/run.json")


def test_a_listing_goes_past_one_page(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    for number in range(5):
        world.put(f"p/{number}/x", b"")
    assert len(subject.list_prefix(world.s3, world.bucket, "p/")) == 5
    assert subject.list_folders(world.s3, world.bucket, "p/") == ["0", "1", "2", "3", "4"]


def test_a_range_past_the_end_has_no_bytes(world: Any) -> None:
    world.put("log", b"12345")
    assert subject.get_bytes(world.s3, world.bucket, "log", byte_range="bytes=5-9") == (b"", "")
    found = subject.get_bytes(world.s3, world.bucket, "log", byte_range="bytes=-3")
    assert found is not None and found[0] == b"345"


def test_a_conditional_write_loses_against_a_faster_writer(world: Any) -> None:
    world.put("r.json", b"{}")
    etag = world.real_s3.head_object(Bucket=world.bucket, Key="r.json")["ETag"]
    assert subject.put_json(world.s3, world.bucket, "r.json", {"mine": 1}, if_match=etag)
    assert not subject.put_json(world.s3, world.bucket, "r.json", {"mine": 2}, if_match=etag)
    assert subject.get_json(world.s3, world.bucket, "r.json") == {"mine": 1}


def test_the_first_failure_drops_the_calls_that_have_not_begun() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            raise ValueError("first")
        gate.wait(0.2)
        return item

    with pytest.raises(ValueError, match="first"):
        subject.in_parallel(work, range(100), workers=2)
    assert len(begun) < 100
