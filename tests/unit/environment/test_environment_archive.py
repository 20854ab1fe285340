"""The archive's bytes depend on the content of the folder, and on nothing else."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chronos_ec2.workstation.environment_archive import (
    FORMATS,
    content_digest,
    matches,
    pack,
    pack_folder,
    possible_format,
    sha256_of,
    space_of,
)


def fill(folder: Path, names: list[str], when: int) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        os.utime(path, (when, when))
    (folder / "run").write_text("#!")
    (folder / "run").chmod(0o700)
    (folder / "link").symlink_to("run")
    (folder / "to-folder").symlink_to("b")


def test_order_times_and_umask_do_not_show(tmp_path: Path) -> None:
    names = ["b/2", "b/1", "a", "b-1", "ü/deep/" + "x" * 120]
    fill(tmp_path / "one", names, when=1_000_000_000)
    fill(tmp_path / "two", list(reversed(names)), when=1_700_000_000)
    (tmp_path / "two" / "a").chmod(0o600)
    for name in ("one", "two"):
        pack_folder(tmp_path / name, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


UNPACK = {
    "squashfs": "unsquashfs -quiet -no-progress -no-xattrs -force -dest {folder} {archive}",
    "tar.zst": "tar --use-compress-program=zstd -xf {archive} -C {folder}",
    "tar.gz": "tar -xzf {archive} -C {folder}",
}


@pytest.mark.parametrize("archive_format", FORMATS)
def test_each_format_is_reproducible_and_unpacks_to_the_same_content(
    archive_format: str, tmp_path: Path
) -> None:
    names = ["b/2", "b/1", "a", "ü/deep/" + "x" * 120]
    fill(tmp_path / "one", names, when=1_000_000_000)
    fill(tmp_path / "two", list(reversed(names)), when=1_700_000_000)
    (tmp_path / "two" / "a").chmod(0o600)
    (tmp_path / "two" / "b").chmod(0o700)
    for name in ("one", "two"):
        pack(tmp_path / name, tmp_path / f"{name}.{archive_format}", archive_format)
    archive = tmp_path / f"one.{archive_format}"
    assert archive.read_bytes() == (tmp_path / f"two.{archive_format}").read_bytes()
    (tmp_path / "out").mkdir()
    words = UNPACK[archive_format].split()
    command = [word.format(archive=archive, folder=tmp_path / "out") for word in words]
    subprocess.run(command, check=True, capture_output=True)
    assert content_digest(tmp_path / "out") == content_digest(tmp_path / "one")


def change_bytes(folder: Path) -> None:
    (folder / "a").write_text("other")


def change_mode(folder: Path) -> None:
    (folder / "a").chmod(0o755)


def change_name(folder: Path) -> None:
    (folder / "a").rename(folder / "c")


def change_link(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("a")


@pytest.mark.parametrize("change", [change_bytes, change_mode, change_name, change_link])
def test_the_content_digest_sees_bytes_modes_names_and_links(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    fill(tmp_path, ["a", "b/1"], when=1)
    before = content_digest(tmp_path)
    change(tmp_path)
    assert content_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("wanted", "installed", "taken"),
    [
        ("squashfs", {"mksquashfs", "zstd"}, "squashfs"),
        ("squashfs", {"zstd"}, "tar.zst"),
        ("squashfs", set(), "tar.gz"),
        ("tar.gz", {"mksquashfs", "zstd"}, "tar.gz"),
    ],
)
def test_what_this_machine_cannot_pack_falls_to_the_next_format(
    wanted: str, installed: set[str], taken: str
) -> None:
    lines: list[str] = []
    found = possible_format(wanted, lines.append, lambda name: name if name in installed else None)
    assert found == taken
    assert len(lines) == FORMATS.index(taken) - FORMATS.index(wanted)
    assert all("apt-get install squashfs-tools" in line for line in lines)


def test_plain_tar_unpacks_content_modes_and_links_without_a_folder_around_them(tmp_path: Path) -> None:
    fill(tmp_path / "in", ["b/1"], when=1)
    pack_folder(tmp_path / "in", tmp_path / "a.tar.gz")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xzf", tmp_path / "a.tar.gz", "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "b" / "1").read_text() == "content of b/1"
    assert (tmp_path / "out" / "link").readlink() == Path("run")
    assert (tmp_path / "out" / "to-folder").readlink() == Path("b")
    assert os.access(tmp_path / "out" / "run", os.X_OK)


def test_entries_belong_to_root_and_have_one_time(tmp_path: Path) -> None:
    fill(tmp_path / "in", ["b/1"], when=1)
    pack_folder(tmp_path / "in", tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        entries = tar.getmembers()
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in entries} == {
        (0, 0, "root", 315532800)
    }
    assert not any(entry.name.startswith(("/", ".")) for entry in entries)


@pytest.mark.parametrize("change", ["", "longer", "other"])
def test_an_archive_matches_its_manifest_only_byte_for_byte(change: str, tmp_path: Path) -> None:
    archive = tmp_path / "a"
    archive.write_text("bytes")
    manifest = {"bytes": 5, "sha256": sha256_of(archive)}
    archive.write_text({"": "bytes", "longer": "bytes!", "other": "Bytes"}[change])
    assert matches(archive, manifest) == (change == "")
    assert not matches(archive, {})
    assert not matches(tmp_path / "none", manifest)


def test_a_folder_takes_whole_blocks_on_a_disk_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one-byte").write_bytes(b"x")
    (tmp_path / "two-blocks").write_bytes(b"x" * 4097)
    (tmp_path / "empty").touch()
    assert space_of(tmp_path) == 3 * 4096
    (tmp_path / "link").symlink_to("two-blocks")
    (tmp_path / "to-folder").symlink_to("deep")
    assert space_of(tmp_path) == 5 * 4096
