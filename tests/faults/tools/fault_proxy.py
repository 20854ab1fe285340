"""An HTTP proxy before the embedded AWS that numbers requests, and holds, drops or breaks those a plan names.

One proxy is one caller's way to AWS: a test gives each of its callers a proxy of its own, so that a number
means "the caller's N-th request". Faults:

    lost        the request takes effect, its answer never comes (the connection closes)
    reset       the connection closes before the request reaches AWS
    409, 412, 500, 503   an S3 or EC2 error of that status; the request does not reach AWS
    slow        the answer comes late
    expired     403, the credentials have expired
    skewed      403, the caller's clock is wrong
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import urlsplit

from tools.naming import Operation, operation_of

KINDS: Final = ("lost", "reset", "409", "412", "500", "503", "slow")
SLOW_SECONDS: Final = 0.4
_CODES: Final = {
    "409": "ConditionalRequestConflict",
    "412": "PreconditionFailed",
    "500": "InternalError",
    "503": "SlowDown",
    "expired": "ExpiredToken",
    "skewed": "RequestTimeTooSkewed",
}
_EC2_CODES: Final = {
    "409": "IncorrectState",
    "412": "OperationNotPermitted",
    "500": "InternalError",
    "503": "RequestLimitExceeded",
    "expired": "RequestExpired",
    "skewed": "RequestExpired",
}
_HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: its number (from 1), what it is, and all of it."""

    number: int
    operation: Operation
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Held:
    """A request that waits in the proxy until the test says what becomes of it."""

    request: Request
    after_effect: bool
    _decided: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False

    def release(self) -> None:
        """Let the request, or its answer, go on."""
        self._decided.set()

    def drop(self) -> None:
        """Close the connection: what was held is lost."""
        self.dropped = True
        self._decided.set()

    def wait(self, seconds: float) -> None:
        """In the proxy's thread: wait for the test."""
        self._decided.wait(seconds)


Match = Callable[[Request], bool]
Fault = Callable[[Request], str | None]
Observe = Callable[[Request, int], None]


class FaultProxy:
    """One caller's proxy.

    Args:
        upstream: URL of the embedded AWS.
        fault: the kind of fault for a request, or None.
        observe: told of every request that reached AWS, with the answer's status.
    """

    def __init__(self, upstream: str, fault: Fault | None = None, observe: Observe | None = None) -> None:
        self._upstream = urlsplit(upstream).netloc
        self.fault = fault
        self.slow_seconds = SLOW_SECONDS
        self._observe = observe
        self.seen: list[Request] = []
        self.answered: set[int] = set()
        self._holds: list[tuple[Match, bool]] = []
        self._held: list[Held] = []
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def hold(self, match: Match, *, after_effect: bool = False, once: bool = True) -> None:
        """Hold the first request (all, with `once=False`) that matches, before or after it takes effect."""
        with self._changed:
            self._holds.append((_once(match) if once else match, after_effect))

    def wait_held(
        self, seconds: float = 120.0, unless: Callable[[], bool] = lambda: False, *, every: float = 0.02
    ) -> Held | None:
        """The next held request; None when `unless` becomes true or the time is over before there is one.

        Args:
            every: seconds between two looks at `unless`, which nothing passes the proxy in.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while not self._held:
                if unless() or time.monotonic() > end:
                    return None
                self._changed.wait(every)
            return self._held.pop(0)

    def held_count(self) -> int:
        """How many requests wait now."""
        with self._changed:
            return len(self._held)

    def number(self, wanted: int) -> Match:
        """Matches the request with a number."""
        return lambda request: request.number == wanted

    def release_all(self) -> None:
        """Hold nothing any more and let go of what is held."""
        with self._changed:
            self._holds.clear()
            held, self._held = self._held, []
        for one in held:
            one.release()

    def close(self) -> None:
        """Stop serving; what is held is dropped."""
        with self._changed:
            self._holds.clear()
            held, self._held = self._held, []
        for one in held:
            one.drop()
        self._server.shutdown()
        self._server.server_close()

    def admit(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
        """Number a request."""
        operation = operation_of(method, target, headers, body)
        with self._changed:
            request = Request(len(self.seen) + 1, operation, method, target, headers, body)
            self.seen.append(request)
        return request

    def pass_by(self, request: Request, *, after_effect: bool) -> bool:
        """Hold the request here if the plan says so. False: it is to be dropped."""
        with self._changed:
            wanted = any(after == after_effect and match(request) for match, after in self._holds)
            if not wanted:
                return True
            held = Held(request, after_effect)
            self._held.append(held)
            self._changed.notify_all()
        held.wait(900)
        return not held.dropped

    def forward(self, request: Request) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send a request on; the answer."""
        link = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
            headers["content-length"] = str(len(request.body))
            headers.pop("expect", None)
            link.request(request.method, request.target, request.body, headers)
            answer = link.getresponse()
            body = answer.read()
            self.answered.add(request.number)
            if self._observe is not None:
                self._observe(request, answer.status)
            return answer.status, answer.getheaders(), body
        finally:
            link.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        return Handler


def _once(match: Match) -> Match:
    spent = False

    def first(request: Request) -> bool:
        nonlocal spent
        if spent or not match(request):
            return False
        spent = True
        return True

    return first


def error_body(request: Request, kind: str) -> bytes:
    """The XML that S3, or an EC2-like service, would answer with."""
    if request.method == "POST" and request.target == "/":
        code = _EC2_CODES[kind]
        text = f"<Errors><Error><Code>{code}</Code><Message>injected</Message></Error></Errors>"
        return f"<Response>{text}<RequestID>injected</RequestID></Response>".encode()
    return f"<Error><Code>{_CODES[kind]}</Code><Message>injected</Message></Error>".encode()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers are killed in the middle of their requests here; that is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultProxy
    # headers and body leave in one segment
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = self.owner.admit(self.command, self.path, headers, self._read_body(headers))
        kind = self.owner.fault(request) if self.owner.fault else None
        if kind in _CODES:
            body = error_body(request, kind)
            self._answer(int(kind) if kind.isdigit() else 403, [("Content-Type", "application/xml")], body)
        elif kind == "reset" or not self.owner.pass_by(request, after_effect=False):
            self._cut()
        else:
            answer = self.owner.forward(request)
            if kind == "lost" or not self.owner.pass_by(request, after_effect=True):
                self._cut()
                return
            if kind == "slow":
                time.sleep(self.owner.slow_seconds)
            self._answer(*answer)

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length") or 0))
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _cut(self) -> None:
        """End the connection with a reset, not with a polite end."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
            )
            self.connection.close()
