"""Counts the S3 requests of this process for the run's cost.

Each is a letter at the end of the file that CHRONOS_S3_REQUESTS names: P for PUT, COPY, POST and LIST, G
for GET and HEAD; deletions are free. A letter is appended in one write, so programs that run side by side
lose none, and one that is killed has counted what it made. `shell/lib/request_count.sh` does the same and
adds up.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

VARIABLE: Final = "CHRONOS_S3_REQUESTS"


def count_requests(client: Any, variables: Mapping[str, str] = os.environ) -> None:
    """Count what an S3 client sends from now on, retries and parts of transfers included.

    Args:
        client: a boto3 client of S3.
    """
    if file := variables.get(VARIABLE):
        client.meta.events.register("before-send.s3", functools.partial(_note, file))


def letter_of(method: str, url: str) -> str:
    """What a request counts as: P, G, or nothing for a deletion."""
    query = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    if method == "DELETE" or (method == "POST" and "delete" in query):
        return ""
    is_list = "list-type" in query or "uploads" in query
    return "P" if is_list or method in ("PUT", "POST") else "G"


def _note(file: str, request: Any, **_: Any) -> None:
    """Called by botocore before each request; an answer other than None would take the request's place."""
    letter = letter_of(request.method, request.url)
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, letter.encode())
        finally:
            os.close(descriptor)
