"""Packs a folder into an archive that comes out the same, byte for byte, whenever it is packed.

A .squashfs is an image that the instance mounts: nothing is unpacked there. The others are unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from chronos_ec2.errors import ChronosError

# 1980-01-01, the earliest time that every archive format can hold.
FIXED_TIME = 315532800
BLOCK = 4096
# Measured on the CPU environment, 239 MB: level 1 gives 86 MB in 2.5 s, 4 gives 79 MB in 3.4 s, 6 gives 77 MB
# in 7.0 s. Unpacking takes the same time for all.
COMPRESSION_LEVEL = 4
# zstd, for both other formats; measured in docs/decisions.
ZSTD_LEVEL: Final = 6
FORMATS: Final = ("squashfs", "tar.zst", "tar.gz")
_NEEDS: Final = {"squashfs": "mksquashfs", "tar.zst": "zstd"}


def possible_format(
    wanted: str, say: Callable[[str], None], find: Callable[[str], str | None] = shutil.which
) -> str:
    """The format to pack in: the one that is wanted, or the next one that this machine can make.

    Args:
        wanted: one of `FORMATS`.
        say: told when it is another one.
        find: where a program lies, if it is installed. An instance unpacks with a copy of this zstd.
    """
    for name in FORMATS[FORMATS.index(wanted) :]:
        if name not in _NEEDS or find(_NEEDS[name]) is not None:
            break
        say(
            f"{_NEEDS[name]} is not installed here, so no .{name} is packed; an instance starts slower "
            "with the next best (Debian: apt-get install squashfs-tools zstd; macOS: brew install squashfs)"
        )
    return name


def pack(folder: Path, archive: Path, archive_format: str) -> None:
    """Pack what lies in a folder, without the folder itself.

    Args:
        archive_format: one of `FORMATS`.

    Raises:
        ChronosError: mksquashfs or zstd failed.
    """
    if archive_format == "squashfs":
        _pack_image(folder, archive)
    elif archive_format == "tar.zst":
        _pack_zstd(folder, archive)
    else:
        pack_folder(folder, archive)


def _pack_zstd(folder: Path, archive: Path) -> None:
    command = ["zstd", "--quiet", f"-{ZSTD_LEVEL}", "-T0", "--force", "-o", str(archive)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as packing:
        assert packing.stdin is not None
        with packing.stdin as packed:
            _pack_tar(folder, packed)
    if packing.returncode != 0:
        raise ChronosError(f"zstd failed with exit code {packing.returncode}")


def _pack_image(folder: Path, archive: Path) -> None:
    for path in [folder, *_in_order(folder)]:
        if not path.is_symlink():
            path.chmod(_mode(path.stat().st_mode & 0o100 != 0 or path.is_dir()))
    command = [
        *("mksquashfs", str(folder), str(archive), "-noappend", "-quiet", "-no-progress"),
        *("-no-xattrs", "-all-root"),
        *("-mkfs-time", str(FIXED_TIME), "-all-time", str(FIXED_TIME)),
        *("-comp", "zstd", "-Xcompression-level", str(ZSTD_LEVEL), "-b", "256K"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChronosError(f"mksquashfs failed: {done.stderr.strip() or done.stdout.strip()}")


def content_digest(folder: Path) -> str:
    """The SHA-256 of what a folder holds, in hex: names, modes, links and bytes, whatever it is packed in."""
    digest = hashlib.sha256()
    for path in _in_order(folder):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            line = f"link {name} {path.readlink()}"
        elif path.is_dir():
            line = f"folder {name}"
        else:
            line = f"file {name} {_mode(path.stat().st_mode & 0o100 != 0):o} {sha256_of(path)}"
        digest.update(line.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def _mode(runs: bool) -> int:
    return 0o755 if runs else 0o644


def pack_folder(folder: Path, archive: Path) -> None:
    """Pack what lies in a folder, without the folder itself.

    Order, times, owners and permissions do not depend on the machine.

    Args:
        folder: What to pack.
        archive: The file to write; its name does not enter the content.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(
            filename="", mode="wb", compresslevel=COMPRESSION_LEVEL, fileobj=raw, mtime=0
        ) as packed,
    ):
        _pack_tar(folder, packed)


def _pack_tar(folder: Path, packed: IO[bytes] | gzip.GzipFile) -> None:
    with tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for path in _in_order(folder):
            name = str(path.relative_to(folder))
            tar.add(path, arcname=name, recursive=False, filter=_without_origin)


def _in_order(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders.sort()
        here = Path(where)
        # os.walk does not enter links to folders; they are packed as links.
        yield from (here / name for name in sorted([*folders, *files]))


def _without_origin(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = FIXED_TIME
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = _mode(entry.isdir() or entry.mode & 0o100 != 0)
    return entry


def space_of(folder: Path) -> int:
    """The bytes that a folder's files take on a disk, in blocks of 4 KiB."""
    sizes = (path.lstat().st_size for path in _in_order(folder) if not path.is_dir() or path.is_symlink())
    return sum(-(-size // BLOCK) * BLOCK for size in sizes)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def matches(archive: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether a file is the archive that a manifest describes, to the last byte."""
    return (
        archive.is_file()
        and archive.stat().st_size == manifest.get("bytes")
        and sha256_of(archive) == manifest.get("sha256")
    )
