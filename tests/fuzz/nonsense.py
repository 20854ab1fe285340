"""Strategies: JSON of every shape, documents with parts replaced, bytes with flaws."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def form(examples: int, *, derandomize: bool) -> settings:
    """How much input a test gets."""
    return settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


FUZZ = form(20, derandomize=True)
"""The form of this session: conftest.py makes it the long one before any test is read."""
# What a JSON reader of Python's takes for a number: also what no float, no int4 and no clock can hold.
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**400), 2**63, -1, 0, 1e308, 5e-324, float("inf"), float("nan")])
)
TEXTS = st.text(max_size=30) | st.sampled_from(
    [
        "2025-01-15T14:30:22Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "2025-01-15-143022",
        "../../x",
        "$(touch canary)",
        "`touch canary`",
        "'; touch canary; '",
        "\x00\x1b[2J\u202e",
        "\ud800",
        "<script>alert(1)</script>",
        "running",
        "succeeded",
        "lost",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def paths_of(document: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a document."""
    found = [so_far]
    if isinstance(document, dict):
        for key, value in document.items():
            found += paths_of(value, (*so_far, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += paths_of(value, (*so_far, index))
    return found


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with one part replaced."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


@st.composite
def flawed(draw: st.DrawFn, document: Any) -> Any:
    """A good document with one to three parts replaced by anything, or gone."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths_of(document)))
        document = replaced(document, path, draw(JSON))
    return document


@st.composite
def flawed_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Good bytes, cut, with bytes altered or others put in."""
    text = bytearray(good)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(text) - 1)))
        match draw(st.sampled_from(["alter", "cut", "insert", "drop"])):
            case "alter" if text:
                text[place] = draw(st.integers(0, 255))
            case "cut":
                del text[place:]
            case "insert":
                text[place:place] = draw(st.binary(max_size=12))
            case "drop":
                del text[place : place + draw(st.integers(1, 40))]
    return bytes(text)


def dumped(value: Any) -> bytes:
    """As JSON, with what JSON does not know but Python reads."""
    return json.dumps(value).encode()


DEEP = [b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"\xef\xbb\xbf{}", b"9" * 5000]
"""Too deep for a recursive reader, a mark that JSON does not know, a number too long for int()."""
COMMAND_PIECES = [
    *(
        "$(touch canary)",
        "`touch canary`",
        "'; touch canary; '",
        '"; touch canary; "',
        "\n touch canary\n",
        "${x[$(touch canary)]}",
    ),
    *(
        "a[$(touch canary)]",
        "$((1))",
        "*",
        "~",
        "-n",
        "--help",
        "%s%n",
        "\\",
        "\x1f",
        "\t",
        "é",
        "\x1b[2J",
        "2h",
        "30m",
        "9" * 30,
    ),
    *(
        "An error occurred (Throttling) when calling the X operation: ",
        "i-0abc",
        "2025-01-15-143022",
        "dev",
        "training",
        "null",
    ),
]
"""What a shell would run, take for a flag or a pattern, or cannot print; and words that it knows."""
