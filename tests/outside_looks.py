"""What tests of several kinds see of a run from outside: that something came, and whose processes live."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Seen = TypeVar("Seen")


def until(what: Callable[[], Seen], complaint: str, seconds: float = 900, *, every: float = 0.1) -> Seen:
    """Wait for something to be so; what it then is.

    Args:
        complaint: said when it never is.
        every: seconds between two looks.
    """
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, complaint
        time.sleep(every)
    return found


def processes_naming(folder: Path) -> list[str]:
    """`PID: COMMAND LINE` of every other process that has a folder in its environment or its words."""
    needle, found = str(folder).encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if needle in words or needle in (process / "environ").read_bytes():
                found.append(f"{process.name}: {words.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
