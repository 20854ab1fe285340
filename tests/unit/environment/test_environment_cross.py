"""An environment for Linux x86-64 is staged without being run, and holds what the instances can run."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation import environment_cross
from chronos_ec2.workstation.environment_cross import (
    MINOR,
    inspect,
    run_program,
    stage_for_instances,
    uv_install,
)
from chronos_ec2.workstation.environment_elf import patch_elf
from chronos_ec2.workstation.environment_packages import LockedRequirements

LIBRARY = Path(shutil.which("true") or "/bin/true").resolve()
"""A small program of this machine's kind that needs nothing but glibc."""


class Uv:
    """uv's answers, and what it was asked."""

    def __init__(self, *, code: int = 0, stderr: str = "", library: Path | None = None) -> None:
        self.code, self.stderr, self.library = code, stderr, library
        self.calls: list[list[str]] = []

    def __call__(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.calls.append(list(argv))
        if "--target" in argv:
            packages = Path(argv[argv.index("--target") + 1])
            packages.mkdir(parents=True, exist_ok=True)
            if self.library and "--dry-run" not in argv:
                shutil.copy(self.library, packages / "native.so")
        return subprocess.CompletedProcess(list(argv), self.code, "", self.stderr)


@pytest.fixture
def locked(tmp_path: Path) -> LockedRequirements:
    path = tmp_path / "a.lock"
    path.write_text("torch==2.13.0\n")
    return LockedRequirements.read(path)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that may be moved, as python-build-standalone lays it out."""
    root = tmp_path / "python"
    for folder in ("bin", f"lib/python{MINOR}/test", f"include/python{MINOR}", "share/man"):
        (root / folder).mkdir(parents=True)
    shutil.copy(LIBRARY, root / "bin" / f"python{MINOR}")
    (root / "bin" / "python3").symlink_to(f"python{MINOR}")
    (root / f"lib/python{MINOR}/site.py").write_text('folder = "site-packages"\n')
    (root / f"include/python{MINOR}/patchlevel.h").write_text('#define PY_VERSION              "3.11.11"\n')
    return root


def other_machine(path: Path) -> None:
    """Make a program one for ARM."""
    body = bytearray(path.read_bytes())
    body[18:20] = struct.pack("<H", 183)
    path.write_bytes(body)


def test_without_an_interpreter_it_says_what_to_download(tmp_path: Path, locked: LockedRequirements) -> None:
    uv = Uv(code=2, stderr="error: Request failed after 3 retries\n  Caused by: dns error\n")
    with pytest.raises(ChronosError, match=r"dns error.*python-build-standalone.*--interpreter"):
        stage_for_instances(locked, tmp_path / "root", None, print, run=uv)
    assert uv.calls[0][1:3] == ["python", "install"] and uv.calls[0][-1] == "cpython-3.11-linux-x86_64-gnu"


@pytest.mark.parametrize("content", [b"", b"not a tarball"])
def test_a_tarball_that_is_none_is_named(tmp_path: Path, locked: LockedRequirements, content: bytes) -> None:
    given = tmp_path / "python.tar.gz"
    given.write_bytes(content)
    with pytest.raises(ChronosError, match=r"python\.tar\.gz is no folder or tarball of a Python"):
        stage_for_instances(locked, tmp_path / "root", given, print, run=Uv())


def test_a_python_of_another_version_is_refused(
    tmp_path: Path, locked: LockedRequirements, python: Path
) -> None:
    (python / "bin" / f"python{MINOR}").rename(python / "bin" / "python3.12")
    with pytest.raises(ChronosError, match=r"no bin/python3\.11"):
        stage_for_instances(locked, tmp_path / "root", python, print, run=Uv())


def test_a_wheel_that_is_not_there_fails_with_uvs_words(
    tmp_path: Path, locked: LockedRequirements, python: Path
) -> None:
    uv = Uv(code=1, stderr="no wheels with a matching platform tag (manylinux_2_28_x86_64)")
    with pytest.raises(ChronosError, match="no wheels with a matching platform tag"):
        stage_for_instances(locked, tmp_path / "root", python, print, run=uv)


@pytest.mark.parametrize("where", ["interpreter", "package"])
def test_a_file_for_another_machine_is_refused(
    tmp_path: Path, locked: LockedRequirements, python: Path, where: str
) -> None:
    library = tmp_path / "native.so"
    shutil.copy(LIBRARY, library)
    other_machine(library if where == "package" else python / "bin" / f"python{MINOR}")
    with pytest.raises(ChronosError, match=r"not for Linux x86-64: .*(native\.so|bin/python3\.11)"):
        stage_for_instances(locked, tmp_path / "root", python, print, run=Uv(library=library))


def test_an_interpreter_that_lacks_a_library_is_refused_and_a_package_that_does_is_told(
    tmp_path: Path, locked: LockedRequirements, python: Path
) -> None:
    library = tmp_path / "native.so"
    shutil.copy(LIBRARY, library)
    patch_elf(library, search_path="$ORIGIN", also_needs=["libibverbs.so.1"])
    facts = stage_for_instances(locked, tmp_path / "root", python, print, run=Uv(library=library))
    assert facts.absent == {"libibverbs.so.1": "native.so"}
    patch_elf(python / "bin" / f"python{MINOR}", search_path="$ORIGIN/../lib", also_needs=["libssl.so.1"])
    with pytest.raises(ChronosError, match=r"needs libssl\.so\.1, which it does not bring"):
        stage_for_instances(locked, tmp_path / "again", python, print, run=Uv())


def test_a_library_that_is_looked_for_on_the_build_machine_is_refused(tmp_path: Path, python: Path) -> None:
    program = python / "bin" / f"python{MINOR}"
    (python / "lib" / "libx.so").write_bytes(b"")
    patch_elf(program, search_path="/opt/builder/lib", also_needs=["libx.so"])
    with pytest.raises(ChronosError, match=r"/opt/builder/lib, which an instance lacks"):
        inspect(python, python / "lib" / f"python{MINOR}" / "site-packages", "3.11.11")


def test_debians_python_gets_its_packages_where_it_looks(
    tmp_path: Path, locked: LockedRequirements, python: Path
) -> None:
    (python / f"lib/python{MINOR}/site.py").write_text('names = "site-packages", "dist-packages"\n')
    facts = stage_for_instances(locked, tmp_path / "root", python, print, run=Uv(library=LIBRARY))
    assert facts.packages == tmp_path / "root" / "lib" / f"python{MINOR}" / "dist-packages"


@pytest.mark.parametrize("missing", [f"bin/python{MINOR}", f"lib/python{MINOR}/site.py"])
def test_a_folder_that_holds_no_whole_python_is_refused(
    tmp_path: Path, locked: LockedRequirements, python: Path, missing: str
) -> None:
    (python / missing).unlink()
    with pytest.raises(ChronosError, match=rf"has no {missing}; the instances' code needs CPython"):
        stage_for_instances(locked, tmp_path / "root", python, print, run=Uv())


def test_another_python_has_the_modules_compiled_by_one_of_the_instances_version(
    tmp_path: Path, locked: LockedRequirements, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = Uv(library=LIBRARY)

    def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        compiling = "compileall" in argv
        return run_program(argv) if compiling else uv(argv)

    monkeypatch.setattr(environment_cross.sys, "version_info", (3, 13, 1, "final", 0))
    root = tmp_path / "root"
    stage_for_instances(locked, root, python, print, run=run)
    (compiled,) = (root / "lib" / f"python{MINOR}").glob("__pycache__/site.*.pyc")
    assert compiled.name == "site.cpython-311.pyc"


@pytest.mark.parametrize("form", ["folder", "tarball"])
def test_what_is_staged_is_the_python_and_the_wheels_for_the_instances(
    tmp_path: Path, locked: LockedRequirements, python: Path, form: str
) -> None:
    given = python
    if form == "tarball":
        given = tmp_path / "python.tar.gz"
        with tarfile.open(given, "w:gz") as archive:
            archive.add(python, "python")
    uv, root = Uv(library=LIBRARY), tmp_path / "root"
    facts = stage_for_instances(locked, root, given, print, run=uv)
    assert (facts.python, facts.files, facts.absent) == ("3.11.11", 2, {})
    assert re.fullmatch(r"2\.\d+", facts.glibc)
    assert (root / "bin" / "python3").resolve().name == f"python{MINOR}"
    assert (root / "pyvenv.cfg").exists()
    assert not any((root / gone).exists() for gone in ("include", "share", f"lib/python{MINOR}/test"))
    (install,) = [call for call in uv.calls if call[1:3] == ["pip", "install"]]
    assert install == uv_install(locked.path, root / "lib" / f"python{MINOR}" / "site-packages")
    assert install[install.index("--python-platform") + 1] == "x86_64-manylinux_2_28"
