"""Stages the training environment for Linux x86-64 on a computer of any kind, without running any of it.

The packages are the wheels that uv chooses for the instances' platform. The interpreter is one that may be
moved (python-build-standalone): a tarball or folder that is named, else the one that `uv python install`
fetches. What cannot be tried is inspected: every program and library is for x86-64, what the interpreter's
own modules are linked to is there, and the oldest glibc that runs all of it is known.
`invoke build-env --platform linux-x86-64` packs it (environment_build.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from elftools.elf.elffile import ELFFile

from chronos_ec2.errors import ChronosError, ToolMissing
from chronos_ec2.workstation.environment_archive import sha256_of
from chronos_ec2.workstation.environment_elf import Elf, belongs_to_machine, elf_files, highest_glibc
from chronos_ec2.workstation.environment_interpreter import left_out, packages_folder, refuse_user_site
from chronos_ec2.workstation.environment_packages import LockedRequirements, trim_packages

PLATFORM: Final = "x86_64-manylinux_2_28"
MINOR: Final = "3.11"
_UV_PYTHON: Final = f"cpython-{MINOR}-linux-x86_64-gnu"
_MACHINE: Final = "EM_X86_64"
_VERSION: Final = re.compile(r'#define\s+PY_VERSION\s+"(\d+\.\d+\.\d+)"')

Say = Callable[[str], None]
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class CrossFacts:
    """What was found in a staged environment.

    Attributes:
        python: such as "3.11.11".
        glibc: the oldest glibc that can run all of it, such as "2.28".
        packages: the folder of the packages.
        files: how many programs and libraries there are.
        absent: libraries that a package is linked to and nobody brings, with one of their users; parts of
            CUDA that serve hardware an instance lacks are linked so.
    """

    python: str
    glibc: str
    packages: Path
    files: int
    absent: dict[str, str] = field(default_factory=dict)


def run_program(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program, its words shown when it fails alone."""
    return subprocess.run(list(argv), capture_output=True, text=True, check=False)


def uv_program() -> str:
    """The pinned uv.

    Raises:
        ToolMissing: it is not installed.
    """
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise ToolMissing("uv is not installed: run ./invokew setup")
    return found


def uv_install(requirements: Path, packages: Path) -> list[str]:
    """The call that puts the wheels for the instances' platform into a folder."""
    flags = ["--python-platform", PLATFORM, "--python-version", MINOR, "--only-binary", ":all:"]
    target = ["--target", str(packages), "-r", str(requirements)]
    return [uv_program(), "pip", "install", "--no-config", *flags, *target]


def interpreter_identity(interpreter: Path | None) -> list[str]:
    """What tells one interpreter from another without unpacking it.

    Raises:
        ChronosError: the one that was named cannot be read.
    """
    if interpreter is None:
        return [_UV_PYTHON, PLATFORM]
    try:
        return [str(interpreter) if interpreter.is_dir() else sha256_of(interpreter), PLATFORM]
    except OSError as error:
        raise ChronosError(f"{interpreter} is no folder or tarball of a Python: {error}") from error


def stage_for_instances(
    locked: LockedRequirements,
    root: Path,
    interpreter: Path | None,
    say: Say,
    *,
    trim: bool = True,
    run: Run = run_program,
) -> CrossFacts:
    """Put interpreter and packages into a folder, and inspect them.

    Args:
        root: an empty folder.
        interpreter: a tarball or folder of a Python that may be moved; None: uv fetches one.

    Raises:
        ChronosError: there is no interpreter to be had, a wheel is missing, or one is not for x86-64.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = _unpack(interpreter, Path(folder)) if interpreter else _fetch(Path(folder), run)
        say(f"copying Python from {interpreter or source}")
        version = _copy_interpreter(source, root)
    packages = packages_folder(root / "lib" / f"python{MINOR}")
    say(f"installing {len(locked.pins)} packages of {locked.path} for {PLATFORM}")
    done = run(uv_install(locked.path, packages))
    if done.returncode != 0:
        raise ChronosError(f"uv cannot install {locked.path} for {PLATFORM}: {done.stderr.strip()}")
    # Entry points name this machine's Python in their first line; packages are run with `python -m`.
    shutil.rmtree(packages / "bin", ignore_errors=True)
    if trim:
        trim_packages(packages)
    say("inspecting what cannot be run here")
    facts = inspect(root, packages, version)
    _compile(root, say, run)
    return facts


def inspect(root: Path, packages: Path, version: str) -> CrossFacts:
    """Look at every program and library of an environment.

    Raises:
        ChronosError: one is not for x86-64, or the interpreter lacks a library.
    """
    files = list(elf_files(root))
    foreign = [str(file.path.relative_to(root)) for file in files if _machine_of(file.path) != _MACHINE]
    if foreign:
        raise ChronosError(f"not for Linux x86-64: {', '.join(foreign[:5])} ({len(foreign)} files)")
    brought = {path.name for path in root.rglob("*.so*")}
    absent: dict[str, str] = {}
    for file in files:
        lacking = [name for name in file.needed if not belongs_to_machine(name) and name not in brought]
        if lacking and not file.path.is_relative_to(packages):
            raise ChronosError(
                f"the interpreter's {file.path.relative_to(root)} needs {', '.join(lacking)}, which it does "
                "not bring; take one of python-build-standalone"
            )
        for name in lacking:
            absent.setdefault(name, str(file.path.relative_to(packages)))
    _refuse_outside_paths(root, packages, files)
    return CrossFacts(version, highest_glibc(files), packages, len(files), absent)


def _refuse_outside_paths(root: Path, packages: Path, files: Sequence[Elf]) -> None:
    """What the interpreter looks for in a folder of the build machine would be found here and not there."""
    for file in files:
        parts = [part for part in file.search_path.split(":") if part]
        outside = [part for part in parts if not part.startswith(("$ORIGIN", "${ORIGIN}"))]
        own = [name for name in file.needed if not belongs_to_machine(name)]
        if outside and len(outside) == len(parts) and own and not file.path.is_relative_to(packages):
            where = file.path.relative_to(root)
            raise ChronosError(f"{where} looks for its libraries in {outside[0]}, which an instance lacks")


def _machine_of(path: Path) -> str:
    with path.open("rb") as stream:
        return str(ELFFile(stream)["e_machine"])


def _unpack(given: Path, folder: Path) -> Path:
    if given.is_dir():
        return given
    try:
        with tarfile.open(given) as archive:
            # Before 3.11.4 Python knows no filter; the tarball is one that the user has named.
            kind: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(folder, **kind)
    except (OSError, tarfile.TarError) as error:
        raise ChronosError(f"{given} is no folder or tarball of a Python: {error}") from error
    return _root_of(folder, str(given))


def _fetch(folder: Path, run: Run) -> Path:
    done = run([uv_program(), "python", "install", "--no-config", "--install-dir", str(folder), _UV_PYTHON])
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ChronosError(
            f"uv cannot fetch {_UV_PYTHON} ({reason[0].strip()}); download an install_only tarball of "
            f"python-build-standalone for x86_64-unknown-linux-gnu and name it with --interpreter"
        )
    return _root_of(folder, _UV_PYTHON)


def _root_of(folder: Path, name: str) -> Path:
    found = sorted(path.parent.parent for path in folder.rglob(f"bin/python{MINOR}") if not path.is_symlink())
    if not found:
        raise ChronosError(f"{name} has no bin/python{MINOR}; the instances' code needs CPython {MINOR}")
    return found[0]


def _copy_interpreter(source: Path, root: Path) -> str:
    """Copy what training needs of a Python; returns its version."""
    for part in (f"bin/python{MINOR}", f"lib/python{MINOR}/site.py"):
        if not (source / part).exists():
            raise ChronosError(f"{source} has no {part}; the instances' code needs CPython {MINOR}")
    shutil.copytree(source, root, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    header = root / "include" / f"python{MINOR}" / "patchlevel.h"
    match = _VERSION.search(header.read_text()) if header.exists() else None
    for unused in ("include", "share"):
        shutil.rmtree(root / unused, ignore_errors=True)
    refuse_user_site(root)
    return match[1] if match else MINOR


def _python_of_this_computer() -> list[str]:
    """This Python where it is of the instances' version, else one that uv finds or fetches."""
    if "{}.{}".format(*sys.version_info) == MINOR:
        return [sys.executable]
    return [uv_program(), "run", "--no-project", "--no-config", "--quiet", "--python", MINOR, "python"]


def _compile(root: Path, say: Say, run: Run) -> None:
    """Write bytecode by a Python of the same version: it is the same on every platform."""
    say("compiling modules")
    words = ["-qq", "--invalidation-mode", "unchecked-hash", "-s", str(root), str(root)]
    done = run([*_python_of_this_computer(), "-I", "-m", "compileall", *words])
    # A module in another Python's syntax, as some packages carry, is left as it is.
    if done.returncode not in (0, 1):
        raise ChronosError(f"the modules cannot be compiled: {done.stderr.strip()}")
