"""Too little of something for one process of a guest, by the kernel's own hand: a cgroup that allows nothing.

It takes root, and cgroups of either version.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outside_looks import until
from tools.guest_processes import Find
from tools.matrix import Cell

_ROOT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is short, and the kernel's names for it.

    Attributes:
        limits: the file of the limit, in cgroups v1 and v2.
        limit: what a process may have beyond what it had before.
        events: the file that counts how often the kernel has struck, in cgroups v1 and v2.
        event: its line for that.
    """

    name: str
    limits: tuple[str, str]
    limit: int
    events: tuple[str, str]
    event: str


MEMORY: Final = Kind(
    "memory",
    limits=("memory.limit_in_bytes", "memory.max"),
    limit=65536,
    events=("memory.oom_control", "memory.events"),
    event="oom_kill",
)
"""The kernel kills."""
PROCESSES: Final = Kind(
    "pids", limits=("pids.max", "pids.max"), limit=0, events=("pids.events", "pids.events"), event="max"
)
"""No fork succeeds."""


class Shortage:
    """A shortage for the processes that are put into it, and for what they begin."""

    def __init__(self, kind: Kind) -> None:
        first = (_ROOT / kind.name).is_dir()  # v1 has a tree for each kind
        self._folder = (_ROOT / kind.name if first else _ROOT) / f"faults-{secrets.token_hex(4)}"
        self._events = self._folder / kind.events[not first]
        self._event = kind.event
        self._folder.mkdir()
        (self._folder / kind.limits[not first]).write_text(str(kind.limit))

    def strike(self, pid: int) -> None:
        """Put a process into it."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def _has_struck(self) -> int:
        """How often the kernel has acted on it."""
        lines = self._events.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{self._event} "))

    def end(self) -> None:
        """Take it away, when what was in it has ended.

        Raises:
            AssertionError: something lives on in it, or the kernel has never acted on it.
        """
        until(lambda: not (self._folder / "cgroup.procs").read_text(), "what was short of it lives on", 20)
        struck = self._has_struck()
        self._folder.rmdir()
        assert struck, "nothing wanted what was short"


def short_of(kind: Kind, find: Find) -> Callable[[Cell], None]:
    """There is no memory, or no process more, for what is found. In the end it must have been wanted."""

    def strike(cell: Cell) -> None:
        shortage = Shortage(kind)
        cell.undone.callback(shortage.end)
        cell.go_on()
        for pid in until(lambda: find(cell.disk), f"{find} finds no process", 20, every=0.02):
            shortage.strike(pid)
        (cell.disk / "run" / "memory-wanted").touch()

    return strike
