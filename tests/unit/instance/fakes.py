"""A small S3 over HTTP that enforces conditional writes, and that can be told to fail."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """Answer the next `times` requests of `method` whose key contains `key` with an error."""

    method: str
    key: str
    status: int
    code: str
    times: int = 1_000_000


@dataclass
class FakeS3:
    """The objects of all buckets as `bucket/key`; reads and writes of a test go straight to `objects`."""

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    url: str = ""

    def fault_for(self, method: str, key: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.key in key:
                fault.times -= 1
                return fault
        return None

    def environment(self) -> dict[str, str]:
        """The standard AWS variables that lead a process here and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: ClassVar[FakeS3]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self._key()
        with self.s3.lock:
            self.s3.requests.append((self.command, key))
            fault = self.s3.fault_for(self.command, key)
            if fault is not None:
                self._error(fault.status, fault.code)
            else:
                getattr(self, f"_{self.command.lower()}")(key, body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _handle

    def _get(self, key: str, _body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(f"{key}/", query.get("prefix", [""])[0])
            return
        found = self.s3.objects.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
        else:
            self._answer(200, found, ETag=etag(found))

    _head = _get

    def _list(self, bucket: str, prefix: str) -> None:
        found = sorted(key for key in self.s3.objects if key.startswith(bucket + prefix))
        rows = "".join(
            f"<Contents><Key>{key[len(bucket) :]}</Key><Size>{len(self.s3.objects[key])}</Size></Contents>"
            for key in found
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        self._answer(200, text.encode())

    def _refused(self, key: str) -> bool:
        current = self.s3.objects.get(key)
        if self.headers.get("If-None-Match") == "*" and current is not None:
            self._error(412, "PreconditionFailed")
            return True
        wanted = self.headers.get("If-Match")
        if wanted is not None and (current is None or etag(current) != wanted):
            self._error(*((404, "NoSuchKey") if current is None else (412, "PreconditionFailed")))
            return True
        return False

    def _put(self, key: str, body: bytes) -> None:
        checksum = self.headers.get("x-amz-checksum-sha256")
        if checksum and checksum != base64.b64encode(hashlib.sha256(body).digest()).decode():
            self._error(400, "BadDigest")
        elif not self._refused(key):
            source = self.headers.get("x-amz-copy-source")
            if source is not None:
                body = self.s3.objects[unquote(source).lstrip("/")]
            self.s3.objects[key] = body
            result = f"<CopyObjectResult><ETag>{etag(body)}</ETag></CopyObjectResult>".encode()
            self._answer(200, result if source is not None else b"", ETag=etag(body))

    def _delete(self, key: str, _body: bytes) -> None:
        if not self._refused(key):
            self.s3.objects.pop(key, None)
            self._answer(204)


@contextmanager
def serve_s3() -> Iterator[FakeS3]:
    """Run a fake S3 on a free port of 127.0.0.1."""
    s3 = FakeS3()
    handler = type("Handler", (_Handler,), {"s3": s3})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    s3.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
