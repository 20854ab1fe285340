"""A made-up AWS that answers what a test has planned, and refuses calls that the real one does not have."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

NOW = datetime(2026, 11, 23, 18, 30, tzinfo=UTC)
Answer = Callable[..., Any]


@functools.cache
def operations(service: str) -> dict[str, Any]:
    """A service's operations by boto3's names, as botocore's model has them."""
    model = botocore.session.Session().get_service_model(service)
    return {xform_name(name): model.operation_model(name) for name in model.operation_names}


def refusal(code: str, message: str = "no", operation: str = "Operation", **headers: str) -> ClientError:
    """An answer that botocore raises."""
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPHeaders": headers}}, operation
    )


class FakeAws:
    """Clients by service.

    `plan[service, operation]` is the answer, an exception, or a function of the arguments.
    """

    def __init__(self, plan: dict[tuple[str, str], Any]) -> None:
        self.plan = plan
        self.calls: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, service: str) -> FakeClient:
        return FakeClient(self, service)

    def deny(self, service: str, operation: str, code: str = "AccessDenied") -> None:
        self.plan[service, operation] = refusal(code, f"not authorized to perform {operation}")

    def answer(self, service: str, operation: str, arguments: dict[str, Any]) -> Any:
        model = operations(service)[operation]
        source = arguments.get("CopySource")  # boto3 makes a string of it before it looks
        checked = {**arguments, "CopySource": str(source)} if source else arguments
        if model.input_shape is not None:
            validate_parameters(checked, model.input_shape)
        self.calls.append((service, operation, arguments))
        planned = self.plan[service, operation]
        if isinstance(planned, ClientError):
            raise ClientError(planned.response, model.name)
        if isinstance(planned, Exception):
            raise planned
        return planned(**arguments) if callable(planned) else planned


class FakeClient:
    """One service's client."""

    def __init__(self, aws: FakeAws, service: str) -> None:
        self._aws = aws
        self._service = service

    def __getattr__(self, operation: str) -> Answer:
        return lambda **arguments: self._aws.answer(self._service, operation, arguments)

    def get_paginator(self, operation: str) -> FakePaginator:
        return FakePaginator(lambda **arguments: self._aws.answer(self._service, operation, arguments))


class FakePaginator:
    """All of it on one page."""

    def __init__(self, call: Answer) -> None:
        self._call = call

    def paginate(self, **arguments: Any) -> Iterator[Any]:
        yield self._call(**arguments)


class FakeS3:
    """A bucket with S3's conditions; `careless` names the operations that do not look at them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.careless: set[str] = set()
        self._lock = threading.Lock()

    def plan(self) -> dict[tuple[str, str], Any]:
        names = ("get_object", "put_object", "copy_object", "delete_object", "list_objects_v2")
        return {("s3", name): getattr(self, name) for name in names}

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:
        if Key not in self.objects:
            raise refusal("NoSuchKey", operation="GetObject")
        return {"Body": io.BytesIO(self.objects[Key]), "ETag": self.etag(Key)}

    def put_object(self, *, Key: str, Body: bytes = b"", **more: Any) -> dict[str, Any]:
        return self._write("PutObject", Key, Body, more)

    def copy_object(self, *, Key: str, CopySource: dict[str, str], **more: Any) -> dict[str, Any]:
        return self._write("CopyObject", Key, self.objects[CopySource["Key"]], more)

    def delete_object(self, *, Key: str, **more: Any) -> dict[str, Any]:
        with self._lock:
            self._require("DeleteObject", Key, more)
            self.objects.pop(Key, None)
        return {}

    def list_objects_v2(self, *, Prefix: str, **_: Any) -> dict[str, Any]:
        found = sorted(key for key in self.objects if key.startswith(Prefix))
        return {
            "Contents": [
                {"Key": key, "Size": len(self.objects[key]), "ETag": self.etag(key), "LastModified": NOW}
                for key in found
            ]
        }

    def etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key]).hexdigest()}"'

    def _write(self, operation: str, key: str, body: bytes, more: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._require(operation, key, more)
            self.objects[key] = body
        return {"ETag": self.etag(key)}

    def _require(self, operation: str, key: str, more: dict[str, Any]) -> None:
        if operation in self.careless:
            return
        lost = more.get("IfNoneMatch") == "*" and key in self.objects
        wanted = more.get("IfMatch")
        if lost or (wanted is not None and wanted != self.etag(key)):
            raise refusal("PreconditionFailed", operation=operation)
