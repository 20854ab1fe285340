"""Every state that was published, put together from the requests that the proxies saw; and what must hold.

Each write names the ETag it replaces, so the order needs no clock: the writes form a chain. A fork in it
would be two winners, a write without a predecessor a plain overwrite.
"""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any
from urllib.parse import unquote

from chronos_ec2.state.machine import is_allowed
from tools.fault_proxy import Request
from tools.naming import Operation


class History:
    """The published states of one environment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._staged: dict[str, bytes] = {}
        self.states: dict[str, dict[str, Any] | None] = {}
        self.writes: list[tuple[str | None, str]] = []
        self.deletions: list[str | None] = []
        self._unconditional: list[Operation] = []

    def begin(self, body: bytes) -> None:
        """What a test has put there; it may be no state at all."""
        etag = _etag(body)
        try:
            self.states[etag] = json.loads(body)
        except ValueError:
            self.states[etag] = None
        self.writes.append((None, etag))

    def see(self, request: Request, status: int) -> None:
        """Take a request that reached AWS, with its answer's status."""
        name, kind = request.operation.name, request.operation.kind
        with self._lock:
            if (name, kind) == ("PutObject", "staged"):
                self._staged[unquote(request.target.partition("?")[0]).lstrip("/")] = request.body
            elif kind == "state" and status < 300 and name in ("CopyObject", "PutObject"):
                self._see_write(request)
            elif (name, kind) == ("DeleteObject", "state") and status < 300:
                self.deletions.append(_bare(request.headers.get("if-match")))

    def _see_write(self, request: Request) -> None:
        source = unquote(request.headers.get("x-amz-copy-source", "")).lstrip("/")
        body = self._staged[source] if source else request.body
        if "if-match" not in request.headers and request.headers.get("if-none-match") != "*":
            self._unconditional.append(request.operation)
        etag = _etag(body)
        self.states[etag] = json.loads(body)
        self.writes.append((_bare(request.headers.get("if-match")), etag))

    def check(self) -> int:
        """Check the invariants; returns how many writes there were.

        Raises:
            AssertionError: one does not hold.
        """
        assert not self._unconditional, (
            f"the state file was written without a condition: {self._unconditional}"
        )
        replaced = [before for before, _ in self.writes if before is not None]
        gone = replaced + [etag for etag in self.deletions if etag is not None]
        assert len(set(gone)) == len(gone), f"a state was replaced or deleted twice: {self.writes}"
        assert None not in self.deletions, "the state file was deleted without a condition"
        claims = sum(1 for before, _ in self.writes if before is None)
        ends = len(self.deletions)
        assert claims - ends in (0, 1), f"{claims} claims and {ends} deletions: two owners at once"
        for before, after in self.writes:
            if before is not None:
                self._check_step(self.states[before], self.states[after])
        return len(self.writes)

    def _check_step(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if old is None or new is None or old["run_id"] != new["run_id"] or new["control"]["revision"] == 1:
            return  # a claim that was taken over begins anew
        assert new["control"]["revision"] == old["control"]["revision"] + 1, (old, new)
        assert new["control"]["writer"] != old["control"]["writer"]
        assert is_allowed(old["status"], new["status"]), (old["status"], new["status"])


def _etag(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.strip('"')
