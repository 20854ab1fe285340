"""A guest's disk: one private folder, laid out as cloud-init leaves a machine."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

_CLOUD: Final = "var/lib/cloud"
_MNT_DETACH, _UMOUNT_NOFOLLOW = 0x2, 0x8
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def make_disk(disk: Path, user_data: bytes) -> None:
    """Make the folder, with the user data where cloud-init keeps it."""
    instance_folder = disk / _CLOUD / "instance"
    for folder in (disk / "root", disk / "tmp", disk / "run", instance_folder / "scripts"):
        folder.mkdir(parents=True)
    (disk / _CLOUD / "scripts" / "per-boot").mkdir(parents=True)
    disk.chmod(0o700)
    raw = instance_folder / "user-data.txt"
    raw.write_bytes(user_data)
    raw.chmod(0o600)
    if user_data.startswith(b"#!"):
        script = instance_folder / "scripts" / "part-001"
        script.write_bytes(user_data)
        script.chmod(0o700)


def note_start(disk: Path, at: float) -> None:
    """Write where the guest looks for its kernel's start (`btime` of /proc/stat), in seconds of the epoch.

    A real kernel writes whole seconds; a guest here lives for too few of them. A link that a guest has put
    there would lead out of its disk, and goes.
    """
    folder, file = disk / "proc", disk / "proc" / "stat"
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(f"btime {at:.3f}\n", encoding="ascii")


def user_data_command(disk: Path) -> list[str]:
    """What the first boot runs: the user data when it is a #! script."""
    script = disk / _CLOUD / "instance" / "scripts" / "part-001"
    return [str(script)] if script.exists() else []


def per_boot_command(disk: Path) -> list[str]:
    """As cloud-init does after a reboot: user data does not run again, per-boot scripts do, in order."""
    folder = disk / _CLOUD / "scripts" / "per-boot"
    scripts = sorted(str(path) for path in folder.glob("*") if os.access(path, os.X_OK))
    return ["/bin/sh", "-c", 'for script; do "$script"; done', "per-boot", *scripts] if scripts else []


def disks_in(folder: Path) -> list[Path]:
    """What has an instance's name in a folder; nothing when that is none, or a link to one."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch("i-[0-9a-f]+", path.name)]


def wipe_disk(disk: Path) -> None:
    """Delete a guest's folder, read-only parts included; links are removed, never followed.

    What a guest has mounted below it is let go first: its files are somebody else's. What cannot be let go
    keeps the whole folder.

    Raises:
        OSError: something is mounted below the folder and stays so, a part of it cannot be deleted, or a link
            has taken the place of the folder that it lies in.
    """
    if disk.parent.is_symlink():
        raise OSError(errno.ELOOP, "nothing was deleted, a link has taken its place", str(disk.parent))
    if disk.is_symlink() or disk.is_file():
        disk.unlink()
    if not disk.exists():
        return
    _let_go_of_mounts(disk)
    try:
        shutil.rmtree(disk)
    except PermissionError:
        _open_up(disk)
        shutil.rmtree(disk)
    except FileNotFoundError:
        shutil.rmtree(disk, ignore_errors=True)  # another thread wipes it too


def mounts_below(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """What is mounted at a folder or below it, the deepest first; a bind mount of the same disk as well.

    Args:
        table: the kernel's list of mounts (proc_pid_mountinfo(5)); without one, the folders are looked at.
    """
    top = folder.resolve()
    try:
        lines = table.read_bytes().splitlines()
    except OSError:
        found = _mounts_by_looking(top)
    else:
        points = [Path(os.fsdecode(_unescaped(line.split(b" ")[4]))) for line in lines]
        found = [point for point in points if point.is_relative_to(top)]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _mounts_by_looking(top: Path) -> list[Path]:
    found = []
    for path, folders, _ in os.walk(top):
        here = [name for name in folders if os.path.ismount(Path(path) / name)]
        found += [Path(path) / name for name in here]
        folders[:] = [name for name in folders if name not in here]
    return found


def _unescaped(field: bytes) -> bytes:
    """White space and backslashes stand in the table as three octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)


def _let_go_of_mounts(disk: Path) -> None:
    for point in mounts_below(disk):
        if _LIBC is not None:
            _LIBC.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    left = mounts_below(disk)
    if left:
        where = ", ".join(map(str, left))
        words = f"nothing was deleted, something is mounted below; umount {where}"
        raise OSError(errno.EBUSY, words, str(disk))


def _open_up(top: Path) -> None:
    folders = [top]
    while folders:
        folder = folders.pop()
        folder.chmod(0o700)
        folders += [child for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
