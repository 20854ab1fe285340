"""An S3 in memory with conditional writes, whose answers can be lost and whose calls can be overtaken."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

RUN_ID = "2025-01-15-143022"
BUCKET = "bucket"
KEY = "dev/system-state.json"


def client_error(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


def lost_answer() -> Exception:
    return ReadTimeoutError(endpoint_url="https://s3.invalid")


def state_body(run_id: str = RUN_ID, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "run_id": run_id,
        "environment": "dev",
        "status": "initialization",
        "current_step": "launch",
        "instance_id": None,
        "instance_type": "g4dn.2xlarge",
        "s3_prefix": f"s3://{BUCKET}/dev/{run_id}/",
        "timestamps": {"start": "2025-01-15T14:30:22Z", "last_update": "2025-01-15T14:30:22Z"},
        "training_config": {"prediction_length": 64, "context_length": 512},
        "error_message": None,
        "pid": None,
        "control": {"revision": 1, "writer": "x", "deadline": "2025-01-15T20:30:22Z", "attempt": 1},
    }
    return {**body, **changes}


class MemoryS3:
    """The four calls that the store makes, on one bucket.

    `before` and `after` hold plans, one a call of an operation: something to do ahead of the call, and
    what to do once it has been applied. Both may raise; an `after` that raises is an answer that got lost.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.before: dict[str, list[Callable[[], object]]] = {}
        self.after: dict[str, list[Callable[[], object]]] = {}

    def plan(self, operation: str, *actions: Callable[[], object] | Exception, applied: bool = False) -> None:
        """Queue what happens to the next calls of `operation`, after they are applied or ahead of that."""
        queue = (self.after if applied else self.before).setdefault(operation, [])
        queue.extend(_raiser(action) if isinstance(action, Exception) else action for action in actions)

    def forget_plans(self) -> None:
        self.before.clear()
        self.after.clear()

    @property
    def keys(self) -> list[str]:
        return sorted(self.objects)

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        self._begin("get_object")
        if Key not in self.objects:
            raise client_error("NoSuchKey", "GetObject")
        body = self.objects[Key]
        return self._end("get_object", {"Body": io.BytesIO(body), "ETag": _etag(body)})

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> dict[str, Any]:
        self._begin("put_object")
        self.objects[Key] = Body
        return self._end("put_object", {"ETag": _etag(Body)})

    def copy_object(
        self,
        *,
        Bucket: str,
        Key: str,
        CopySource: dict[str, str],
        IfMatch: str | None = None,
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        self._begin("copy_object")
        assert (IfMatch is None) != (IfNoneMatch is None), "a plain write of the state file"
        self._check(Key, IfMatch, IfNoneMatch, "CopyObject")
        if CopySource["Key"] not in self.objects:
            raise client_error("NoSuchKey", "CopyObject")
        self.objects[Key] = self.objects[CopySource["Key"]]
        return self._end("copy_object", {"CopyObjectResult": {"ETag": _etag(self.objects[Key])}})

    def delete_object(self, *, Bucket: str, Key: str, IfMatch: str | None = None) -> dict[str, Any]:
        operation = "drop_temporary" if ".tmp-" in Key else "delete_object"
        self._begin(operation)
        assert IfMatch is not None or ".tmp-" in Key, "a plain delete of the state file"
        self._check(Key, IfMatch, None, "DeleteObject")
        self.objects.pop(Key, None)
        return self._end(operation, {})

    def _check(self, key: str, if_match: str | None, if_none_match: str | None, operation: str) -> None:
        current = self.objects.get(key)
        if if_none_match == "*" and current is not None:
            raise client_error("PreconditionFailed", operation)
        if if_match is not None and current is None:
            raise client_error("NoSuchKey", operation)
        if if_match is not None and current is not None and _etag(current) != if_match:
            raise client_error("PreconditionFailed", operation)

    def _begin(self, operation: str) -> None:
        self.calls.append(operation)
        self._follow(self.before, operation)

    def _end(self, operation: str, answer: dict[str, Any]) -> dict[str, Any]:
        self._follow(self.after, operation)
        return answer

    def _follow(self, plans: dict[str, list[Callable[[], object]]], operation: str) -> None:
        queue = plans.get(operation)
        if queue:
            queue.pop(0)()


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _raiser(error: Exception) -> Callable[[], object]:
    def raise_it() -> object:
        raise error

    return raise_it
