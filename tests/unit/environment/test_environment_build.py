"""When the environment is built, when it is not, and what is left when building fails."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from chronos_ec2.errors import ChronosError
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation import environment_build
from chronos_ec2.workstation.environment_build import BuiltEnvironment, build_environment, main
from chronos_ec2.workstation.environment_interpreter import StagedInterpreter
from chronos_ec2.workstation.environment_packages import (
    LockedRequirements,
    install_packages,
    installed_packages,
    try_environment,
)


def quiet(_line: str) -> None:
    """Take progress and drop it."""


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "some.lock"
    path.write_text("six==1.17.0\n")
    return path


@pytest.fixture
def instant_build(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the costly part; returns the lock files it was called for."""
    calls: list[Path] = []

    def build(
        fill: environment_build.Fill,
        locked: LockedRequirements,
        folder: Path,
        say: object,
        trim: bool,
        archive_format: str,
    ) -> environment_build._Facts:
        calls.append(locked.path)
        (folder / "packed").write_text(f"built from {locked.pins}, {trim}, {archive_format}")
        content = environment_build.Content("3.11.7", "x86_64", list(locked.pins), "2.34", [])
        return environment_build._Facts(content, 4096, "c" * 64)

    monkeypatch.setattr(environment_build, "_build", build)
    return calls


def test_the_same_inputs_give_the_same_bytes_in_another_folder(tiny_environment, tmp_path: Path) -> None:
    again = build_environment(
        tiny_environment.lock, tmp_path / "a longer path" / "env", say=quiet, archive_format="tar.gz"
    )
    assert again.rebuilt
    assert again.manifest["sha256"] == tiny_environment.built.manifest["sha256"]
    assert again.archive.read_bytes() == tiny_environment.built.archive.read_bytes()


def test_it_starts_from_any_folder_it_is_unpacked_to(tiny_environment) -> None:
    python = tiny_environment.unpacked / "bin" / "python3"
    code = "import six, sys; print(sys.prefix); print(six.__file__)"
    result = subprocess.run([python, "-I", "-c", code], env={}, capture_output=True, text=True, check=True)
    prefix, six = result.stdout.splitlines()
    assert Path(prefix) == tiny_environment.unpacked
    assert Path(six).is_relative_to(tiny_environment.unpacked)


def test_it_holds_no_installer_and_no_script_that_names_another_python(tiny_environment) -> None:
    assert names_in(tiny_environment.unpacked) == {"bin", "lib", "pyvenv.cfg"}
    version = re.match(r"\d+\.\d+", tiny_environment.built.manifest["python"])
    assert version is not None
    assert names_in(tiny_environment.unpacked / "bin") == {"python", "python3", f"python{version[0]}"}
    left = {path.name for path in tiny_environment.unpacked.rglob("*")}
    assert left.isdisjoint({"ensurepip", "idlelib", "tkinter", "test", "lib2to3", "pip"})


def test_unchanged_inputs_are_not_built_again(lock: Path, tmp_path: Path, instant_build: list[Path]) -> None:
    lines: list[str] = []
    first = build_environment(
        lock, tmp_path / "env", say=quiet, now=lambda: datetime(2025, 1, 15, tzinfo=UTC)
    )
    second = build_environment(lock, tmp_path / "env", say=lines.append)
    assert (first.rebuilt, second.rebuilt) == (True, False)
    assert second.manifest == first.manifest
    assert first.manifest["built_at"] == "2025-01-15T00:00:00Z"
    assert instant_build == [lock]
    (line,) = lines
    assert line.startswith("environment unchanged")


def test_a_changed_lock_file_or_another_kind_of_build_is_built(
    lock: Path, tmp_path: Path, instant_build: list[Path]
) -> None:
    first = build_environment(lock, tmp_path / "env", say=quiet)
    lock.write_text("six==1.16.0\n")
    second = build_environment(lock, tmp_path / "env", say=quiet)
    third = build_environment(lock, tmp_path / "env", say=quiet, trim=False)
    assert second.rebuilt and third.rebuilt
    assert len({built.manifest["inputs_sha256"] for built in (first, second, third)}) == 3


def test_a_changed_digest_of_pieces_is_a_change(
    lock: Path, tmp_path: Path, instant_build: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_environment(lock, tmp_path / "env", say=quiet)
    other = tmp_path / "pieces_digest.py"
    other.write_text(f"{Path(environment_build.pieces_digest.__file__).read_text()}# other\n")
    monkeypatch.setattr(environment_build.pieces_digest, "__file__", str(other))
    assert build_environment(lock, tmp_path / "env", say=quiet).rebuilt


@pytest.mark.parametrize(
    "damage", ["archive cut short", "byte flipped", "archive gone", "manifest gone", "not JSON"]
)
def test_damage_is_found_and_repaired(
    damage: str, lock: Path, tmp_path: Path, instant_build: list[Path]
) -> None:
    built = build_environment(lock, tmp_path / "env", say=quiet)
    content = built.archive.read_bytes()
    manifest = built.archive.parent / "MANIFEST.json"
    match damage:
        case "archive cut short":
            built.archive.write_bytes(content[:-1])
        case "byte flipped":
            built.archive.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "archive gone":
            built.archive.unlink()
        case "manifest gone":
            manifest.unlink()
        case "not JSON":
            manifest.write_text('{"archive": ')
    again = build_environment(lock, tmp_path / "env", say=quiet)
    assert again.rebuilt
    assert again.archive.read_bytes() == content


def test_another_format_is_built_and_takes_the_place_of_the_last(
    lock: Path, tmp_path: Path, instant_build: list[Path]
) -> None:
    names = []
    for archive_format in ("tar.gz", "squashfs", "squashfs"):
        built = build_environment(lock, tmp_path / "env", say=quiet, archive_format=archive_format)
        assert built.manifest["format"] == archive_format
        assert names_in(tmp_path / "env") == {built.archive.name, "MANIFEST.json"}
        names.append((built.archive.name, built.rebuilt))
    python, digest = built.manifest["python"], built.manifest["sha256"]
    assert names[0] == (f"chronos-venv-{python}.tar.gz", True)  # the document's name
    assert names[1:] == [(f"chronos-venv-{python}-{digest[:16]}.squashfs", new) for new in (True, False)]


def test_an_archive_of_another_python_is_replaced(
    lock: Path, tmp_path: Path, instant_build: list[Path]
) -> None:
    output = tmp_path / "env"
    output.mkdir()
    (output / "chronos-venv-3.9.1.tar.gz").write_text("old")
    built = build_environment(lock, output, say=quiet)
    assert names_in(output) == {built.archive.name, "MANIFEST.json"}


def test_what_a_killed_build_left_is_swept_away(
    lock: Path, tmp_path: Path, instant_build: list[Path]
) -> None:
    output = tmp_path / "env"
    (output / ".building-abc" / "root").mkdir(parents=True)
    (output / ".building-file").touch()
    others = tmp_path / "others"
    others.mkdir()
    (others / "a file").touch()
    (output / ".building-link").symlink_to(others)
    built = build_environment(lock, output, say=quiet)
    assert names_in(output) == {built.archive.name, "MANIFEST.json"}
    assert names_in(others) == {"a file"}


def test_a_second_build_waits_for_the_first_and_then_has_nothing_to_do(
    lock: Path, tmp_path: Path, instant_build: list[Path]
) -> None:
    output = tmp_path / "env"
    build_environment(lock, output, say=quiet)
    waiting = threading.Event()
    results: list[BuiltEnvironment] = []
    holder = os.open(output, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    second = threading.Thread(
        target=lambda: results.append(build_environment(lock, output, say=lambda line: waiting.set()))
    )
    second.start()
    assert waiting.wait(timeout=30)
    assert results == []
    os.close(holder)
    second.join(timeout=30)
    assert [built.rebuilt for built in results] == [False]


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_build_leaves_nothing(
    signal_number: signal.Signals, status: int, lock: Path, tmp_path: Path
) -> None:
    output = tmp_path / "env"
    command = [sys.executable, "-m", "chronos_ec2.workstation.environment_build"]
    build = subprocess.Popen(
        [*command, "--requirements", str(lock), "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list(output.glob(".building-*/root/bin/python3")) and time.monotonic() < deadline:
        time.sleep(0.01)
    build.send_signal(signal_number)
    stdout, _ = build.communicate(timeout=60)
    assert (build.returncode, stdout) == (status, b"")
    assert names_in(output) == set()


def test_a_failed_build_keeps_the_old_environment_and_nothing_else(
    lock: Path, tmp_path: Path, instant_build: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "env"
    old = build_environment(lock, output, say=quiet)
    content = old.archive.read_bytes()
    lock.write_text("six==1.16.0\n")

    def full_disk(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(environment_build, "_build", full_disk)
    with pytest.raises(ChronosError, match=r"cannot build into .*No space left on device"):
        build_environment(lock, output, say=quiet)
    assert names_in(output) == {old.archive.name, "MANIFEST.json"}
    assert old.archive.read_bytes() == content


def test_a_package_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    lock = tmp_path / "some.lock"
    lock.write_text("no-such-package==1.0\n")
    status = main(["--requirements", str(lock), "--output", str(tmp_path / "env")])
    captured = capsys.readouterr()
    assert (status, captured.out) == (ExitCode.FAILED, "")
    assert "no-such-package==1.0" in captured.err
    assert names_in(tmp_path / "env") == set()


def test_a_package_that_cannot_be_imported_fails_the_build(tiny_environment, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(tiny_environment.unpacked, root, symlinks=True)
    (stdlib,) = root.glob("lib/python3.*")
    staged = StagedInterpreter(root, root / "bin" / "python3", stdlib, root / "lib")
    packages = staged.packages_folder()
    (packages / "broken.py").write_text(
        "raise ImportError('libmissing.so.1: cannot open shared object file')"
    )
    described = packages / "broken-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (described / "top_level.txt").write_text("broken\n")
    with pytest.raises(ChronosError, match=r"does not work, so it was not kept:[\s\S]*libmissing\.so\.1"):
        try_environment(staged, ["broken==1.0"])
    try_environment(staged, ["six==1.17.0", "only-on-windows==1.0"])


@pytest.mark.parametrize("brings", [True, False])
def test_what_the_taken_torch_pins_beside_the_lock_comes_with_it(brings: bool, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    linux = 'platform_system == "Linux"'
    pinned = [f"cuda-kit[blas]==13.0; {linux}", f"nvidia-nccl==2.0; {linux}"] if brings else []
    write_wheel(wheels, "torch", "1.0", "six", *pinned)
    write_wheel(wheels, "cuda_kit", "13.0", 'nvidia-blas==13.*; extra == "blas"')
    for name, version in (("nvidia_blas", "13.1"), ("nvidia_nccl", "2.0"), ("nvidia_nccl", "2.1")):
        write_wheel(wheels, name, version, holds=f"nvidia/{name}/__init__.py")
    for version in ("1.17.0", "1.18.0"):
        write_wheel(wheels, "six", version, holds="six.py")
    lock = tmp_path / "some.lock"
    lock.write_text(f"--no-index\n--find-links {wheels}\nsix==1.17.0\ntorch==1.0\n")
    packages = tmp_path / "packages"
    install_packages(LockedRequirements.read(lock), packages)
    brought = ["cuda_kit==13.0", "nvidia_blas==13.1", "nvidia_nccl==2.0"] if brings else []
    assert installed_packages(packages) == [*brought, "six==1.17.0", "torch==1.0"]
    held = names_in(packages / "nvidia") - {"__pycache__"}
    assert held == ({"nvidia_blas", "nvidia_nccl"} if brings else set())


def write_wheel(folder: Path, name: str, version: str, *requires: str, holds: str | None = None) -> None:
    info = f"{name}-{version}.dist-info"
    described = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: blas"]
    described += [f"Requires-Dist: {one}" for one in requires]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(described) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        if holds:
            wheel.writestr(holds, "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("numpy\n", "line 1: 'numpy' is not locked"),
        ("six==1.17.0\nnumpy>=2\n", "line 2: 'numpy>=2' is not locked"),
        ("six==1.*\n", "is not locked"),
        ("six @ file:///tmp/six.whl\n", "is not locked"),
        ("# nothing\n\n", "names no package"),
    ],
)
def test_a_requirements_file_that_is_not_locked_is_refused(
    content: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "loose.txt"
    path.write_text(content)
    with pytest.raises(ChronosError, match=re.escape(complaint)):
        LockedRequirements.read(path)


def test_hashes_options_markers_and_comments_may_stand_in_a_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "full.lock"
    path.write_text(
        "--prefer-binary\n"
        "six==1.17.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb  # why\n"
        "torch==2.5.1+cu124 ; sys_platform == 'linux'\n"
        "a.b_c[extra]==1!2.0\n"
    )
    assert LockedRequirements.read(path).pins == ("six==1.17.0", "torch==2.5.1+cu124", "a.b_c==1!2.0")


def test_a_missing_requirements_file_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--requirements", str(tmp_path / "none.lock"), "--output", str(tmp_path / "env")])
    captured = capsys.readouterr()
    assert (status, captured.out) == (ExitCode.FAILED, "")
    assert captured.err.startswith("environment_build: cannot read the requirements file")
    assert not (tmp_path / "env").exists()


def test_a_python_of_another_system_is_not_packed(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ChronosError, match=r"this is darwin; .*--platform linux-x86-64"):
        build_environment(lock, tmp_path / "env", say=quiet, platform_name="this")
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize(
    ("system", "machine", "is_own"),
    [("linux", "x86_64", True), ("linux", "aarch64", False), ("darwin", "x86_64", False)],
)
def test_what_is_built_by_itself_is_what_the_instances_run(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, is_own: bool
) -> None:
    fills: list[Any] = []

    def build(fill: Any, *_: object) -> NoReturn:
        fills.append(fill.func)
        raise ChronosError("enough")

    monkeypatch.setattr(environment_build, "_build", build)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ChronosError, match="enough"):
        build_environment(lock, tmp_path / "env", say=quiet)
    assert fills == [environment_build._fill_from_here if is_own else environment_build._fill_for_instances]


def test_what_is_staged_for_the_instances_is_packed_and_runs(tiny_environment, tmp_path: Path) -> None:
    lock = tmp_path / "native.lock"
    lock.write_text("six==1.17.0\nmarkupsafe==3.0.2\n")
    # The Python of an archive may be moved: it is one.
    arguments = ["--platform", "linux-x86-64", "--interpreter", str(tiny_environment.unpacked)]
    output, folder = tmp_path / "env", tmp_path / "unpacked"
    command = ["--requirements", str(lock), "--output", str(output), "--format", "tar.gz", *arguments]
    assert main(command) == ExitCode.OK
    manifest = json.loads((output / "MANIFEST.json").read_text())
    assert (manifest["machine"], manifest["machine_libraries"]) == ("x86_64", [])
    assert manifest["requirements"] == ["MarkupSafe==3.0.2", "six==1.17.0"]
    folder.mkdir()
    subprocess.run(["tar", "-xzf", output / manifest["archive"], "-C", folder], check=True)
    code = "import sys, six, markupsafe._speedups as native; print(native.__file__); print(six.__cached__)"
    python = [folder / "bin" / "python3", "-I", "-B", "-c", code]
    done = subprocess.run(python, env={}, capture_output=True, text=True, check=True)
    native, cached = map(Path, done.stdout.split())
    assert native.is_relative_to(folder)
    assert cached.is_file()
    before = (output / "MANIFEST.json").read_bytes()
    assert main(command) == ExitCode.OK
    assert (output / "MANIFEST.json").read_bytes() == before


def test_stdout_is_the_archive_and_progress_is_on_stderr(
    lock: Path, tmp_path: Path, instant_build: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--requirements", str(lock), "--output", str(tmp_path / "env")]
    assert main(arguments) == ExitCode.OK
    captured = capsys.readouterr()
    assert Path(captured.out.strip()).is_file()
    assert "built " in captured.err
    assert main([*arguments, "--quiet"]) == ExitCode.OK
    assert capsys.readouterr().err == ""
