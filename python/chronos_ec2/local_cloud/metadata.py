"""The instance metadata service of one guest: IMDSv2 on a loopback port of its own.

As on EC2: a session token comes from PUT /latest/api/token with its lifetime in seconds (1 to 21600); every
other request carries it, or gets 401. A request with X-Forwarded-For gets no token. The hop limit has no
meaning on loopback.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import unquote, urlsplit

TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
LIFETIME_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
LONGEST_LIFETIME_SECONDS: Final = 21600

Tree = dict[str, Callable[[], str | bytes]]


class Tokens:
    """The session tokens that are out, with their ends."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    def issue(self, lifetime: int) -> str:
        """A fresh token for `lifetime` seconds."""
        token = secrets.token_urlsafe(40)
        with self._lock:
            self._ends = {known: end for known, end in self._ends.items() if end > self._now()}
            self._ends[token] = self._now() + lifetime
        return token

    def valid(self, token: str | None) -> bool:
        """Whether the token is one of ours and still young enough."""
        return token is not None and self._ends.get(token, 0.0) > self._now()


class MetadataService:
    """Serves a tree of values until closed.

    Args:
        tree: makes the values anew for each request, keyed by path below the version ("meta-data/ami-id").
        now: a clock in seconds.
    """

    def __init__(self, tree: Callable[[], Tree], now: Callable[[], float] = time.monotonic) -> None:
        tokens = Tokens(now)

        class Handler(_Handler):
            pass

        Handler.tree = staticmethod(tree)
        Handler.tokens = tokens
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What AWS_EC2_METADATA_SERVICE_ENDPOINT must be in the guest."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    tree: Callable[[], Tree]
    tokens: Tokens

    def do_PUT(self) -> None:
        if urlsplit(self.path).path != "/latest/api/token":
            self._answer(405)
            return
        if "X-Forwarded-For" in self.headers:
            self._answer(403)
            return
        lifetime = self.headers.get(LIFETIME_HEADER, "")
        if not re.fullmatch("[0-9]{1,9}", lifetime) or not 1 <= int(lifetime) <= LONGEST_LIFETIME_SECONDS:
            self._answer(400)
            return
        self._answer(200, self.tokens.issue(int(lifetime)), {LIFETIME_HEADER: lifetime})

    def do_GET(self) -> None:
        if not self.tokens.valid(self.headers.get(TOKEN_HEADER)):
            self._answer(401)
            return
        parts = unquote(urlsplit(self.path).path).split("/", 2)
        value = look_up(self.tree(), parts[2]) if len(parts) == 3 else None
        if value is None:
            self._answer(404)
        else:
            self._answer(200, value)

    do_HEAD = do_GET

    def _answer(self, status: int, body: str | bytes = "", headers: dict[str, str] | None = None) -> None:
        raw = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        return


def look_up(tree: Tree, path: str) -> str | bytes | None:
    """The value at a path, or the listing of a folder (folders in it end in "/"), or None."""
    if path in tree:
        return tree[path]()
    folder = path.rstrip("/") + "/" if path.strip("/") else ""
    below = [name.removeprefix(folder) for name in tree if name.startswith(folder)]
    names = {f"{head}/" if slash else head for head, slash, _ in (name.partition("/") for name in below)}
    return "\n".join(sorted(names)) or None
