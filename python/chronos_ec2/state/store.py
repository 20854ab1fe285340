"""Read and compare-and-swap the state file in S3.

A write stages the new body at a temporary key and publishes it with one CopyObject that carries
`If-None-Match: *` (create) or `If-Match: ETag` (update): the document's "tmp file + copy", made a
compare-and-swap. 412 means that another writer won; 409, 5xx and time-outs are tried again; after an
answer that never came the file is read and its `control.writer` nonce says whether the write landed.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from chronos_ec2.errors import (
    StateConflict,
    StateHeld,
    StateMissing,
    StateUnreadable,
    StorageDenied,
)
from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.state.json_text import decode_json
from chronos_ec2.state.machine import require_allowed, validate_state

_T = TypeVar("_T")
ATTEMPTS: Final = 6
BASE_DELAY_SECONDS: Final = 0.2
MAX_DELAY_SECONDS: Final = 10.0
_TRANSIENT_CODES: Final = frozenset(
    {"409", "ConditionalRequestConflict", "500", "502", "503", "504", "InternalError", "InternalFailure"}
    | {"SlowDown", "ServiceUnavailable", "Unavailable", "RequestTimeout", "RequestTimeTooSkewed"}
    | {"Throttling", "ThrottlingException", "RequestLimitExceeded"}
)
_DENIED_CODES: Final = frozenset(
    {"403", "AccessDenied", "AllAccessDisabled", "Forbidden", "InvalidAccessKeyId"}
)
_MISSING_CODES: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_LOST_CODES: Final = frozenset({"412", "PreconditionFailed"})
_FINAL_ERRORS: Final = (NoCredentialsError, PartialCredentialsError, ParamValidationError)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state file as it was read: its body and the ETag that a later write must match."""

    body: dict[str, Any]
    etag: str

    @property
    def status(self) -> str:
        """The run's status, one of the document's seven."""
        return str(self.body["status"])

    @property
    def run_id(self) -> str:
        """Which run holds the environment."""
        return str(self.body["run_id"])


def state_key(environment: str) -> str:
    """The state file's key in the bucket."""
    return f"{environment}/system-state.json"


def error_code(error: ClientError) -> str:
    """The service's code for an error, `NoSuchKey` or `412`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _refuse_constant(name: str) -> None:
    """`json` would take NaN and Infinity, which no other reader of the file does."""
    raise ValueError(f"{name} is no JSON")


class StateStore:
    """One environment's state file.

    Args:
        client: a boto3 S3 client.
        bucket: the bucket's name.
        environment: the environment whose file this is.
        now, sleep, jitter: clock, sleep in seconds, and a source in [0, 1), for tests.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        environment: str,
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._environment = environment
        self._key = state_key(environment)
        self._now = now
        self._sleep = sleep
        self._jitter = jitter

    @property
    def uri(self) -> str:
        """Where the file is, for messages."""
        return f"s3://{self._bucket}/{self._key}"

    def read(self) -> Snapshot | None:
        """The current state, or None when no run holds the environment.

        Raises:
            StateUnreadable: what is there is not JSON or not the schema.
            StorageDenied: S3 refused the read.
        """
        raw = self.read_raw()
        if raw is None:
            return None
        body, etag = raw
        try:
            decoded = decode_json(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise StateUnreadable(f"{self.uri} is not JSON ({error})") from error
        return Snapshot(validate_state(decoded), etag)

    def read_raw(self) -> tuple[bytes, str] | None:
        """The file's bytes and ETag without a look at them, or None when there is no file."""

        def get() -> tuple[bytes, str] | None:
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key)
            except ClientError as error:
                if error_code(error) in _MISSING_CODES:
                    return None
                raise
            return answer["Body"].read(), answer["ETag"]

        return self._retry(get)

    def claim(self, body: Mapping[str, Any]) -> Snapshot:
        """Create the state file; exactly one of many claimants wins.

        Raises:
            StateHeld: another run holds the environment.
        """
        staged = self._with_control(body, revision=1)
        written = self._publish(staged, if_match=None)
        if written is None:
            raise StateHeld(f"another run holds {self._environment}: {self.uri} exists")
        return written

    def update(self, seen: Snapshot, changes: Mapping[str, Any]) -> Snapshot | None:
        """Write `changes` over what was seen.

        Returns:
            The new snapshot, or None when another writer was faster and the file must be read again.

        Raises:
            IllegalTransition: the table forbids the new status; nothing was written.
        """
        require_allowed(seen.status, str(changes.get("status", seen.status)))
        body = {**seen.body, **changes}
        staged = self._with_control(body, revision=int(seen.body["control"]["revision"]) + 1)
        return self._publish(staged, if_match=seen.etag)

    def transition(self, run_id: str, status: str, step: str, **changes: Any) -> Snapshot:
        """Move a run to `status` at `current_step`, whoever else writes meanwhile.

        Raises:
            StateMissing: the file is gone, or belongs to another run.
            IllegalTransition: the table forbids the move from what is there now.
            StateConflict: other writers won every time.
        """
        return self.modify(run_id, {"status": status, "current_step": step, **changes})

    def modify(self, run_id: str, changes: Mapping[str, Any]) -> Snapshot:
        """Compare-and-swap `changes` into a run's state; reads again after each lost race."""
        for attempt in range(ATTEMPTS):
            seen = self.read()
            if seen is None or seen.run_id != run_id:
                raise StateMissing(f"{self.uri} does not belong to run {run_id} any more")
            written = self.update(seen, changes)
            if written is not None:
                return written
            self._sleep(self._delay(attempt))
        raise StateConflict(f"{self.uri}: other writers won {ATTEMPTS} times in a row; try again")

    def delete(self, seen: Snapshot) -> bool:
        """Delete the file if it is still what was seen. False: another writer was faster."""

        def drop() -> bool:
            try:
                self._client.delete_object(Bucket=self._bucket, Key=self._key, IfMatch=seen.etag)
            except ClientError as error:
                if error_code(error) in _LOST_CODES:
                    return False
                if error_code(error) not in _MISSING_CODES:
                    raise
            return True

        return self._retry(drop)

    def _with_control(self, body: Mapping[str, Any], revision: int) -> dict[str, Any]:
        now = to_text(self._now())
        control = {**body["control"], "revision": revision, "writer": secrets.token_hex(8)}
        timestamps = {**body["timestamps"], "last_update": now}
        return validate_state({**body, "control": control, "timestamps": timestamps})

    def _publish(self, body: dict[str, Any], if_match: str | None) -> Snapshot | None:
        writer = str(body["control"]["writer"])
        temporary = f"{self._key}.tmp-{writer}"
        staged = json.dumps(body, indent=2).encode()
        try:
            self._retry(
                lambda: self._client.put_object(
                    Bucket=self._bucket, Key=temporary, Body=staged, ContentType="application/json"
                )
            )
            return self._settled_copy(temporary, body, if_match)
        finally:
            self._drop_quietly(temporary)

    def _settled_copy(self, temporary: str, body: dict[str, Any], if_match: str | None) -> Snapshot | None:
        try:
            return self._retry(lambda: self._copy(temporary, body, if_match))
        except (ClientError, BotoCoreError):
            landed = self._landed_before(body)  # the last try may have landed, and only its answer be lost
            if landed is None:
                raise
            return landed

    def _copy(self, temporary: str, body: dict[str, Any], if_match: str | None) -> Snapshot | None:
        condition = {"IfNoneMatch": "*"} if if_match is None else {"IfMatch": if_match}
        source = {"Bucket": self._bucket, "Key": temporary}
        try:
            answer = self._client.copy_object(
                Bucket=self._bucket, Key=self._key, CopySource=source, **condition
            )
        except ClientError as error:
            if error_code(error) in _LOST_CODES | _MISSING_CODES:
                return self._landed_before(body)
            raise
        return Snapshot(body, answer["CopyObjectResult"]["ETag"])

    def _landed_before(self, body: dict[str, Any]) -> Snapshot | None:
        """A refused write may be our own, repeated after its answer was lost: the nonce tells."""
        seen = self.read()
        if seen is not None and seen.body["control"]["writer"] == body["control"]["writer"]:
            return seen
        return None

    def _drop_quietly(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError):
            return  # a lifecycle rule sweeps what is left

    def _delay(self, attempt: int) -> float:
        return self._jitter() * min(MAX_DELAY_SECONDS, BASE_DELAY_SECONDS * 2.0**attempt)

    def _retry(self, call: Callable[[], _T]) -> _T:
        """Run `call`; transient failures again, with capped exponential backoff and full jitter."""
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except ClientError as error:
                if error_code(error) in _DENIED_CODES:
                    message = f"S3 refused {error.operation_name} on {self.uri}: {error}"
                    raise StorageDenied(message) from error
                if error_code(error) not in _TRANSIENT_CODES or attempt == ATTEMPTS - 1:
                    raise
            except BotoCoreError as error:
                if isinstance(error, _FINAL_ERRORS) or attempt == ATTEMPTS - 1:
                    raise
            self._sleep(self._delay(attempt))
        raise AssertionError("unreachable")
