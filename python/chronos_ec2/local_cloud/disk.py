"""A guest's disk: one private folder, laid out as cloud-init leaves a machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

_CLOUD: Final = "var/lib/cloud"


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

    A real kernel writes whole seconds; a guest here lives for too few of them.
    """
    (disk / "proc").mkdir(exist_ok=True)
    (disk / "proc" / "stat").write_text(f"btime {at:.3f}\n", encoding="ascii")


def user_data_command(disk: Path) -> list[str]:
    """What the first boot runs: the user data when it is a #! script."""
    script = disk / _CLOUD / "instance" / "scripts" / "part-001"
    return [str(script)] if script.exists() else []


def per_boot_command(disk: Path) -> list[str]:
    """As cloud-init does after a reboot: user data does not run again, per-boot scripts do, in order."""
    folder = disk / _CLOUD / "scripts" / "per-boot"
    scripts = sorted(str(path) for path in folder.glob("*") if os.access(path, os.X_OK))
    return ["/bin/sh", "-c", 'for script; do "$script"; done', "per-boot", *scripts] if scripts else []


def wipe_disk(disk: Path) -> None:
    """Delete a guest's folder, read-only parts included; links are removed, never followed."""
    if not disk.exists():
        return
    try:
        shutil.rmtree(disk)
    except PermissionError:
        _open_up(disk)
        shutil.rmtree(disk)
    except FileNotFoundError:
        shutil.rmtree(disk, ignore_errors=True)  # another thread wipes it too


def _open_up(top: Path) -> None:
    folders = [top]
    while folders:
        folder = folders.pop()
        folder.chmod(0o700)
        folders += [child for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
