"""The processes of a guest, found from outside by what they run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

Find = Callable[[Path], list[int]]
_WORDS: Final = 6
"""Of a command line, from the interpreter to the program or module that it runs."""


def processes(disk: Path, program: str) -> list[int]:
    """Processes of a guest that run a program, oldest first."""
    needle, name, found = f"CHRONOS_ROOT={disk}\0".encode(), program.encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\x00")
            if needle in (process / "environ").read_bytes() and any(
                word.endswith(name) for word in words[:_WORDS]
            ):
                found.append(int(process.name))
    return sorted(found)


def running(name: str) -> Find:
    """Finds the processes of a program or a module."""
    return lambda disk: processes(disk, name)


def user_data(disk: Path) -> list[int]:
    """The user data, which waits for the bootstrap."""
    return processes(disk, "/part-001")


def bootstrap(disk: Path) -> list[int]:
    """The bootstrap itself, without what it runs beside it; the user data that waits for it lives."""
    found = processes(disk, "/bootstrap.sh")
    return [pid for pid in found if parent(pid) not in (*found, None)]


def boot_scripts(disk: Path) -> list[int]:
    """The bootstrap and the user data that waits for it: nothing is left that could power the machine off."""
    return [*user_data(disk), *bootstrap(disk)]


def parent(pid: int) -> int | None:
    """A process's parent; None when it has ended meanwhile."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def wrapper(disk: Path) -> list[int]:
    """The training wrapper, without its command."""
    return processes(disk, "/training_wrapper.py")[:1]


def companions(disk: Path) -> list[int]:
    """What runs beside the phases, as copies of the bootstrap: the log's upload, the watch for a kill, …"""
    leader = bootstrap(disk)
    return [pid for pid in processes(disk, "/bootstrap.sh") if pid not in leader]
