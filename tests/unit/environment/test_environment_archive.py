"""The archive's bytes depend on the content of the folder, and on nothing else."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from chronos_ec2.workstation.environment_archive import matches, pack_folder, sha256_of, space_of


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
