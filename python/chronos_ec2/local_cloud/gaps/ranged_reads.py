"""GetObject with a Range.

Real S3 reads the bytes that were asked for. moto copies the whole object three times for every range, so a
download in parts of 8 MB costs the square of the object's size: 150 MB took 4 s. Here the plain forms,
`bytes=FIRST-LAST` and `bytes=FIRST-`, read what they name; moto answers all others.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any, Final

from moto.s3.models import FakeKey
from moto.s3.responses import S3Response

from chronos_ec2.local_cloud.gaps import around

_PLAIN: Final = re.compile(r"bytes=(\d+)-(\d*)")


class _Window(threading.local):
    """The range that this thread's request reads, None for everything."""

    first_last: tuple[int, int] | None = None


def install() -> None:
    """Make moto read no more than the range."""
    window = _Window()
    around(FakeKey, "value", functools.partial(_windowed, window))
    around(S3Response, "get_object", functools.partial(_ranged, window))


def _windowed(window: _Window, value: Any) -> Any:
    def read(key: Any) -> bytes:
        if window.first_last is None:
            return bytes(value.fget(key))
        first, last = window.first_last
        with key.lock:
            key._value_buffer.seek(first)
            return bytes(key._value_buffer.read(last - first + 1))

    return property(read, value.fset)


def _ranged(window: _Window, get_object: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(get_object)
    def get_range(response: Any) -> Any:
        window.first_last = _wanted(response)
        if window.first_last is None:
            return get_object(response)
        first, last = window.first_last
        try:
            status, headers, content = get_object(response)
        finally:
            window.first_last = None
        if status != 200:
            return status, headers, content
        size = int(headers["content-length"])
        partial = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum-")}
        partial["content-range"] = f"bytes {first}-{last}/{size}"
        partial["content-length"] = str(len(content))
        return 206, partial, content

    return get_range


def _wanted(response: Any) -> tuple[int, int] | None:
    plain = _PLAIN.fullmatch(response.headers.get("Range") or "")
    if plain is None or response._get_int_param("partNumber"):
        return None
    key = response.backend.get_object(
        response.bucket_name, response.parse_key_name(), version_id=response._get_param("versionId")
    )
    first = int(plain[1])
    if key is None or first >= key.size:
        return None
    last = min(int(plain[2]) if plain[2] else key.size - 1, key.size - 1)
    return (first, last) if first <= last else None
