"""A real environment is put in its place by each of the ways there are, and its Python runs from there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from chronos_ec2.workstation.environment_archive import pack
from chronos_ec2.workstation.settings import REPOSITORY

_PLACE = """
set -Eeuo pipefail
source "$1/shell/lib/phases.sh"
mkdir -p "$home/venv"
place_environment "$2" "$home/venv" "$data/venv"
printf '%s\\n' "$environment_used"
"$venv_python" -c 'import six, sys; print(sys.prefix); print(six.__file__)'
cat /sys/block/loop*/loop/backing_file 2>/dev/null || true
"""


def place(archive: Path, root: Path, programs: Path | None = None) -> list[str]:
    """What `_PLACE` prints; its mounts go with it."""
    path = os.environ["PATH"] if programs is None else f"{programs}{os.pathsep}{os.environ['PATH']}"
    isolated = ["unshare", "--mount"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*isolated, "bash", "-c", _PLACE, "bash", str(REPOSITORY), str(archive)],
        env={"PATH": path, "CHRONOS_ROOT": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def may_mount(folder: Path, *words: str) -> bool:
    """Whether this machine lets this process mount something so; nothing stays mounted."""
    where = folder / "a mount"
    where.mkdir(exist_ok=True)
    argv = ["unshare", "--mount", "mount", *words, str(where)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def packed(tiny_environment, folder: Path, archive_format: str) -> Path:
    (folder / "archives").mkdir()
    archive = folder / "archives" / f"an environment.{archive_format}"
    pack(tiny_environment.unpacked, archive, archive_format)
    return archive


def test_an_image_is_mounted_where_it_may_be_by_way_of_an_overlay(tiny_environment, tmp_path: Path) -> None:
    archive, root = packed(tiny_environment, tmp_path, "squashfs"), tmp_path / "a disk"
    used, prefix, six, *loops = place(archive, root)
    if not may_mount(tmp_path, "-t", "squashfs", "-o", "loop,ro", str(archive)):
        assert used == "unsquashfs"
        return
    assert used == "mount"
    assert Path(prefix) == root / "opt" / "chronos" / "venv"
    assert Path(six).is_relative_to(prefix)
    overlays = may_mount(tmp_path, "-t", "overlay", "-o", f"ro,lowerdir={archive.parent}:{root}", "overlay")
    assert f"{archive.parent}{'.seen' if overlays else ''}/{archive.name}" in loops
    assert archive.exists()


@pytest.mark.parametrize(
    ("archive_format", "way"), [("squashfs", "unsquashfs"), ("tar.zst", "tar.zst"), ("tar.gz", "tar.gz")]
)
def test_without_a_mount_it_is_unpacked_and_runs_through_the_link_to_where_it_lies(
    archive_format: str, way: str, tiny_environment, tmp_path: Path
) -> None:
    archive, root = packed(tiny_environment, tmp_path, archive_format), tmp_path / "a disk"
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mount").write_text("#!/bin/sh\nexit 32\n")
    (programs / "mount").chmod(0o755)
    used, prefix, six, *_loops = place(archive, root, programs)
    assert used == way
    assert (root / "opt" / "chronos" / "venv").is_symlink()
    assert Path(prefix).samefile(root / "data" / "venv")
    assert Path(six).resolve().is_relative_to(root / "data" / "venv")
    assert not archive.exists()
