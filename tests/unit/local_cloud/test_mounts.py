"""What a guest mounts goes with the guest: no mount and no loop device outlives it, however it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chronos_ec2.local_cloud import supervisor
from chronos_ec2.local_cloud.disk import make_disk, mounts_below, wipe_disk
from chronos_ec2.workstation.settings import REPOSITORY

# Mounts an image as an instance does, says how that went, and stays.
MOUNT = f"""
cd "$CHRONOS_ROOT"
source '{REPOSITORY}/shell/lib/phases.sh'
mkdir venv
if _mount_image "$CHRONOS_ROOT/archives/env.squashfs" venv 2>why; then cp venv/inside read; fi
echo done >said
exec sleep 600
"""


def loops_of(disk: Path) -> list[str]:
    """The loop devices that read a file of a disk, deleted or not."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [backing.parts[3]] if backing.read_text().startswith(str(disk)) else []
        except OSError:
            continue  # it went between the listing and the look
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A guest's disk with an image on it."""
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "inside").write_text("from the image")
    disk = tmp_path / "a disk"
    make_disk(disk, b"")
    (disk / "archives").mkdir()
    image = disk / "archives" / "env.squashfs"
    subprocess.run(["mksquashfs", tmp_path / "content", image, "-quiet", "-no-progress"], check=True)
    return disk


@pytest.mark.parametrize("end", ["plug pulled", "supervisor killed"])
def test_no_mount_and_no_loop_device_outlives_its_guest(
    disk: Path, end: str, eventually: Callable[..., bool]
) -> None:
    (disk / "boot").write_text(MOUNT)
    guest = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, str(disk), "0", "/bin/bash", str(disk / "boot")],
        env={"PATH": os.environ["PATH"], "CHRONOS_ROOT": str(disk)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: (disk / "said").exists())
        if os.geteuid() == 0 and shutil.which("losetup") and not (disk / "why").read_text():
            assert (disk / "read").read_text() == "from the image"
            assert loops_of(disk)
        assert mounts_below(disk) == []  # it is the guest's own
    finally:
        if end == "supervisor killed":
            guest.kill()
        assert guest.stdin is not None
        guest.stdin.close()
        guest.wait()
    assert eventually(lambda: not loops_of(disk))
    wipe_disk(disk)
    assert not disk.exists()
