"""Numbers in words for people, and what others wrote in a form that a terminal bears."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_NAMES_SHOWN: Final = 3
_CONTROL: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def span_text(seconds: float) -> str:
    """A duration for a person: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(count: float) -> str:
    """Bytes for a person: `512 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if unit == "GB" or count < (999.5 if unit == "B" else 999.95):
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def money_text(usd: float | None) -> str:
    """Dollars for a person: `$4.62`, small ones `$0.0018`, `under $0.0001`, `$0`; None is `not known`."""
    if usd is None:
        return "not known"
    if usd == 0:
        return "$0"
    if usd >= 0.01:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.00005 else "under $0.0001"


def one_line(text: str) -> str:
    """Text of any form in a line that cannot steer the terminal."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Text of any form without what could steer the terminal."""
    return _CONTROL.sub("", text)


def some_of(names: Sequence[str]) -> str:
    """The first of many names, and how many there are more: `a, b, c and 2 more`."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
