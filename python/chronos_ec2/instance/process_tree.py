"""Who ends with whom: nothing that trains outlives the wrapper, not even one that is killed by SIGKILL.

Linux's own means, prctl(2); elsewhere nothing is done. The wrapper's child dies with the wrapper. torchrun is
such a child, and its workers are no longer anybody's: so a trainer of ours dies with its parent as well.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

WRAPPER_PID: Final = "CHRONOS_WRAPPER_PID"
"""The variable that tells a trainer whose it is."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, also by what cannot be handled."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_with_wrapper(environ: Mapping[str, str]) -> bool:
    """In a trainer, or a worker of torchrun: end with the wrapper, through the parents between.

    Returns:
        False when the wrapper ended while this process was starting. True also without a wrapper.
    """
    wrapper = environ.get(WRAPPER_PID)
    if _LIBC is None or wrapper is None:
        return True
    die_with_parent()
    return os.getpid() in descendants(int(wrapper))


def adopt_orphans() -> None:
    """Grandchildren whose parent ends become ours, also those that left the group (torchrun's workers)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """The pids of all processes below `root`; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    frontier = [root]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found
