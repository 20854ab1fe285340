"""What the embedded AWS ends and deletes is its own: whatever is linked, mounted or numbered otherwise."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from chronos_ec2.errors import LocalCloudDown
from chronos_ec2.local_cloud import control, supervisor
from chronos_ec2.local_cloud.disk import make_disk, mounts_below, note_start, wipe_disk
from chronos_ec2.local_cloud.guest import Guest, Hardware
from chronos_ec2.local_cloud.home import Endpoint, Home, process_start
from chronos_ec2.local_cloud.instance_host import KEPT_CONSOLES, InstanceHost, Originals


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, with a file in it."""
    folder = tmp_path / "the user's own"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "thesis.tex").write_text("years of work")
    return folder


@pytest.fixture(autouse=True)
def nothing_of_the_users_is_gone(outside: Path) -> Iterator[None]:
    yield
    assert (outside / "deep" / "thesis.tex").read_text() == "years of work"


def planted(disk_folder: Path, outside: Path) -> Path:
    """A disk full of ways out of it."""
    make_disk(disk_folder, b"#!/bin/sh\n")
    (disk_folder / "to a folder").symlink_to(outside)
    (disk_folder / "root" / "to a file").symlink_to(outside / "deep" / "thesis.tex")
    (disk_folder / "tmp" / "up").symlink_to("../../..")
    (disk_folder / "round").symlink_to(disk_folder)
    os.link(outside / "deep" / "thesis.tex", disk_folder / "hard link")
    os.mkfifo(disk_folder / "run" / "power")
    return disk_folder


def test_links_are_removed_and_not_followed(tmp_path: Path, outside: Path) -> None:
    wipe_disk(planted(tmp_path / "i-1", outside))
    assert not (tmp_path / "i-1").exists()


def test_a_link_or_a_file_in_a_disks_place_is_removed_itself(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "i-1").symlink_to(outside)
    (tmp_path / "i-2").symlink_to("nowhere")
    (tmp_path / "i-3").write_text("no disk")
    for name in ("i-1", "i-2", "i-3"):
        wipe_disk(tmp_path / name)
        assert not os.path.lexists(tmp_path / name)


MOUNTED = """
import ctypes, sys
from pathlib import Path
from typing import Any
from chronos_ec2.local_cloud import disk, supervisor
if not supervisor.hide(()):
    print("no mount namespace")
    raise SystemExit
libc, folder, outside = ctypes.CDLL(None, use_errno=True), Path(sys.argv[1]), Path(sys.argv[2])
for name in ("plain", "with a space", "plain/deep"):
    (folder / name).mkdir(exist_ok=True)
    assert libc.mount(bytes(outside), bytes(folder / name), None, supervisor._MS_BIND, None) == 0
real, disk._LIBC = disk._LIBC, None
try:
    disk.wipe_disk(folder)
except OSError as error:
    print("kept:", error.strerror)
disk._LIBC = real
disk.wipe_disk(folder)
print("wiped" if not folder.exists() else "still there")
"""


def test_a_mount_is_let_go_and_never_descended_into(tmp_path: Path, outside: Path) -> None:
    """Bind mounts of the same disk: nothing about their files tells that they are somebody else's."""
    folder = planted(tmp_path / "i-1", outside)
    argv = [sys.executable, "-c", MOUNTED, str(folder), str(outside)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if said.startswith("no mount namespace"):
        pytest.skip("the kernel allows no mount namespace here")
    kept, wiped = said.splitlines()
    assert kept.startswith("kept: nothing was deleted, something is mounted below; umount")
    assert wiped == "wiped"


def test_the_kernels_table_of_mounts_is_read_as_it_is_written(tmp_path: Path) -> None:
    top = tmp_path.resolve()
    odd = str(top).replace(" ", "\\040")
    rows = (f"{odd}/i-1/a\\040b\\134c", f"{odd}/i-1", f"{odd}/i-10", "/", f"{odd}/i-1/a\\040b\\134c/deep")
    table = tmp_path / "mountinfo"
    table.write_text("".join(f"36 35 98:0 / {row} rw,noatime master:1 - ext3 /dev/root rw\n" for row in rows))
    below = top / "i-1"
    assert mounts_below(below, table) == [below / "a b\\c" / "deep", below / "a b\\c", below]


def test_without_a_table_folders_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "mounted" / "inside").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name in ("mounted", "inside"))
    assert mounts_below(tmp_path, tmp_path / "no table") == [tmp_path / "a" / "mounted"]


FILES = ("server.log", "server.lock", "control.lock", "endpoint.json", "endpoint.tmp", "clock-offset")
FOLDERS = ("image", "instances", "consoles", "tmp")


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_a_folder_with_files_of_somebody_elses_is_not_taken(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    if name in FILES:
        theirs.write_text("theirs")
    else:
        (theirs / "deep").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LocalCloudDown, match=f"{name} in it would be emptied"):
        control.start(tmp_path)
    assert control.stop(tmp_path) is False
    assert sorted(tmp_path.rglob("*")) == before
    assert name in FOLDERS or theirs.read_text() == "theirs"


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_a_linked_part_of_the_home_is_refused_even_in_a_home(
    tmp_path: Path, outside: Path, name: str
) -> None:
    home = Home(tmp_path / "home")
    home.take()
    home.take()
    (home.path / name).unlink(missing_ok=True)
    (home.path / name).symlink_to(outside / "deep" / "thesis.tex" if name in FILES else outside)
    with pytest.raises(LocalCloudDown, match=f"{name} in it"):
        home.take()
    assert (home.path / name).is_symlink()


def test_a_link_that_comes_after_the_look_is_not_followed(tmp_path: Path, outside: Path) -> None:
    home = Home(tmp_path / "home")
    home.take()
    for name in ("control.lock", "endpoint.tmp"):
        (home.path / name).symlink_to(outside / "deep" / "thesis.tex")
    with pytest.raises(LocalCloudDown, match=r"control\.lock is a link"):
        control.stop(home.path)
    mine = Endpoint(os.getpid(), process_start(os.getpid()) or "", 7, "http://127.0.0.1:7")
    home.write_endpoint(mine)
    assert home.recorded_endpoint() == mine


def hosted(home: Home) -> InstanceHost:
    """An instance host of this home, with no guest on it."""

    def nothing(_instance: Any) -> None:
        return None

    return InstanceHost(home, Hardware(home.image, "", 1.0), Originals(nothing, nothing), nothing)


def test_the_host_wipes_its_instances_and_nothing_else(tmp_path: Path, outside: Path) -> None:
    home = Home(tmp_path / "home")
    host = hosted(home)
    for name in ("i-0123456789abcdef0", "notes", "i-phone pictures"):
        (home.disks / name).mkdir()
    (home.disks / "i-0123456789abcdef1").symlink_to(outside)
    host.close()
    assert sorted(path.name for path in home.disks.iterdir()) == ["i-phone pictures", "notes"]


def test_a_link_in_the_place_of_all_disks_or_consoles_keeps_what_is_behind_it(
    tmp_path: Path, outside: Path
) -> None:
    home = Home(tmp_path / "home")
    host = hosted(home)
    home.disks.rmdir()
    home.consoles.rmdir()
    (outside / "i-0123456789abcdef0").mkdir()
    logs = [outside / f"i-{number:017x}.log" for number in range(2 * KEPT_CONSOLES)]
    for log in logs:
        log.touch()
    before = sorted(outside.rglob("*"))
    home.disks.symlink_to(outside)
    home.consoles.symlink_to(outside)
    with pytest.raises(OSError, match="nothing was deleted"):
        wipe_disk(home.disks / "i-0123456789abcdef0")
    host._forget_old_consoles()
    host.close()
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("linked", ["instances", "instances/i-1", "consoles", "consoles/i-1.log"])
def test_no_guest_boots_through_a_link(tmp_path: Path, outside: Path, linked: str) -> None:
    home = Home(tmp_path / "home")
    (home.path / linked).parent.mkdir(parents=True)
    (home.path / linked).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(OSError, match="a link has taken its place"):
        Guest(None, home.disks / "i-1", home.consoles / "i-1.log", Hardware(home.image, "", 1.0))
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("linked", ["proc", "proc/stat"])
def test_a_start_is_noted_on_the_disk_alone(tmp_path: Path, outside: Path, linked: str) -> None:
    disk = tmp_path / "i-1"
    make_disk(disk, b"")
    (disk / linked).parent.mkdir(exist_ok=True)
    (disk / linked).symlink_to(outside if linked == "proc" else outside / "deep" / "thesis.tex")
    note_start(disk, 1.5)
    assert (disk / "proc" / "stat").read_text() == "btime 1.500\n"
    assert not (outside / "stat").exists()


@pytest.mark.parametrize("problem", [None, AttributeError(), PermissionError()], ids=repr)
def test_a_process_that_has_got_the_id_of_another_is_not_signalled(
    monkeypatch: pytest.MonkeyPatch, problem: Exception | None
) -> None:
    if problem is not None:
        monkeypatch.setattr(os, "pidfd_open", Mock(side_effect=problem), raising=False)
    with subprocess.Popen(["sleep", "60"]) as innocent:
        supervisor.signal_process(innocent.pid, "1", signal.SIGKILL)
        began = process_start(innocent.pid)
        control.send_signal(Endpoint(innocent.pid, f"{began}0", 1, "http://127.0.0.1:1"), signal.SIGKILL)
        assert innocent.poll() is None
        supervisor.signal_process(innocent.pid, supervisor.process_start(innocent.pid) or "", signal.SIGKILL)
        assert innocent.wait(10) == -signal.SIGKILL


def test_without_proc_a_process_is_known_by_what_ps_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_LINUX", False)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with subprocess.Popen(["sleep", "60"]) as child:
        began = supervisor._descendants()[child.pid]
        supervisor.signal_process(child.pid, f"{began[:-1]}x", signal.SIGKILL)
        assert child.poll() is None
        supervisor.signal_process(child.pid, began, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
    assert supervisor.process_start(child.pid) is None


@pytest.mark.parametrize("seconds", ["²", "9" * 5000, "-1", "soon", ""])
def test_a_guest_cannot_crash_its_supervisor_by_what_it_asks_for(tmp_path: Path, seconds: str) -> None:
    machine = supervisor.Machine.__new__(supervisor.Machine)
    machine._root, machine._deadline = str(tmp_path), None
    machine._obey_guest(["poweroff", seconds])
    assert machine._deadline is None
    machine._obey_guest(["poweroff", "60"])
    assert machine._deadline is not None


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_an_endpoint_file_cannot_name_a_group_or_the_first_process(tmp_path: Path, pid: int) -> None:
    Home(tmp_path).write_endpoint(Endpoint(pid, process_start(pid) or "", 1, "http://127.0.0.1:1"))
    assert control.read_endpoint(tmp_path) is None
    assert control.stop(tmp_path) is False


def test_a_guest_that_plants_links_and_hides_processes_leaves_the_machine_as_it_was(
    cloud: Any, outside: Path, eventually: Callable[..., bool]
) -> None:
    """A whole life of one: double forks, links to outside, a root folder that it replaces by a link."""
    script = f"""#!/bin/bash
ln -s {shlex.quote(str(outside))} away; ln -s / everything; mkdir deep; ln -s ../.. deep/up
(setsid setsid sleep 300 &) &
rm -rf tmp; ln -s {shlex.quote(str(outside))} tmp
poweroff
"""
    instance = cloud.boot(script)
    assert cloud.ends_as(instance, "terminated")
    assert not os.path.lexists(cloud.disk(instance))
