"""What a request to AWS is: the service's operation and, for S3, which of the project's objects it is on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

_KINDS: Final = (
    ("staged", re.compile(r"[^/]+/system-state\.json\.tmp-.*")),
    ("state", re.compile(r"[^/]+/system-state\.json")),
    ("run.json", re.compile(r"[^/]+/[^/]+/run\.json")),
    ("config.yaml", re.compile(r"[^/]+/[^/]+/config\.yaml")),
    ("phase log", re.compile(r"logs/[^/]+/phase_logs\.json")),
    ("log", re.compile(r".*\.log|logs/.*")),
    ("manifest", re.compile(r"cached-datasets/.*MANIFEST\..*")),
    ("cached", re.compile(r"cached-datasets/.*")),
)
_S3_VERBS: Final = {"GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject", "HEAD": "HeadObject"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One request: its API operation, and the kind of object it names."""

    name: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.kind}".strip()


def operation_of(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Operation:
    """Name a request.

    Args:
        target: path and query of the request line.
        headers: with lower-case names.
    """
    url = urlsplit(target)
    if "x-amz-target" in headers:
        return Operation(headers["x-amz-target"].rpartition(".")[2])
    if method == "POST" and url.path == "/":
        return Operation(parse_qs(body.decode(errors="replace")).get("Action", ["?"])[0])
    _, _, key = unquote(url.path).lstrip("/").partition("/")
    if not key:
        return Operation("ListObjectsV2" if "list-type" in url.query else f"{method} bucket")
    name = "CopyObject" if "x-amz-copy-source" in headers else _S3_VERBS.get(method, method)
    return Operation(name, next((kind for kind, shape in _KINDS if shape.fullmatch(key)), "object"))
