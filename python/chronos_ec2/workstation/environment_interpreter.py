"""Copies the running Python, so that the copy runs on a machine where this Python was never installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.environment_elf import (
    belongs_to_machine,
    elf_files,
    libraries_of,
    patch_elf,
    read_elf,
)

# Parts of the standard library that a training run on a machine without a screen or a compiler cannot use.
_LEFT_OUT = frozenset(
    {
        "__pycache__",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "turtle.py",
        "lib2to3",
        "ensurepip",
        # Debian's hook for its crash reporter, a link to /etc.
        "sitecustomize.py",
    }
)
_LEFT_OUT_STARTS = ("config-", "_tkinter.", "_test", "_ctypes_test", "_xxtestfuzz", "xxlimited", "nis.")


@dataclass(frozen=True)
class Interpreter:
    """Where a Python lies.

    Attributes:
        executable: The program itself.
        prefix: The folder that the rest hangs from.
        stdlib: The standard library.
        extensions: Its compiled modules.
        version: Such as "3.11.7".
    """

    executable: Path
    prefix: Path
    stdlib: Path
    extensions: Path
    version: str

    @classmethod
    def running(cls) -> Interpreter:
        """Return the Python that runs this, or the one its virtual environment was made from.

        Raises:
            ChronosError: This is not Linux, or this Python has an unusual form.
        """
        if sys.platform != "linux":
            raise ChronosError(
                f"this computer's Python does not run on Linux instances: this is {sys.platform}; build what "
                "they run with --platform linux-x86-64"
            )
        extensions = next((Path(entry) for entry in sys.path if entry.endswith("lib-dynload")), None)
        if extensions is None:
            raise ChronosError(f"{sys.executable} has no lib-dynload folder; use a standard CPython")
        return cls(
            executable=Path(getattr(sys, "_base_executable", sys.executable)).resolve(),
            prefix=Path(sys.base_prefix).resolve(),
            stdlib=Path(sysconfig.get_path("stdlib")).resolve(),
            extensions=extensions.resolve(),
            version=platform.python_version(),
        )


@dataclass(frozen=True)
class StagedInterpreter:
    """A copy of a Python in a folder of its own.

    Attributes:
        root: The folder.
        executable: The copied program.
        stdlib: Its standard library.
        libraries: Where the shared libraries lie.
    """

    root: Path
    executable: Path
    stdlib: Path
    libraries: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the copy without anything of the caller's environment."""
        return subprocess.run(
            [str(self.executable), "-I", "-B", *arguments],
            env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )

    def packages_folder(self) -> Path:
        """Return where the copy looks for packages."""
        return packages_folder(self.stdlib)


def packages_folder(stdlib: Path) -> Path:
    """Return where a Python looks for packages, without running it: beside its standard library.

    Debian's looks in dist-packages and never in site-packages, as its site.py says.
    """
    is_debian = '"dist-packages"' in (stdlib / "site.py").read_text(encoding="utf-8")
    return stdlib / ("dist-packages" if is_debian else "site-packages")


def copy_interpreter(source: Interpreter, root: Path, say: Callable[[str], None]) -> StagedInterpreter:
    """Copy a Python with its standard library and every shared library it needs but glibc.

    Args:
        source: The Python to copy.
        root: An empty folder.
        say: Takes a line about what is left out.
    """
    staged = StagedInterpreter(
        root=root,
        executable=root / "bin" / f"python{source.version.rpartition('.')[0]}",
        stdlib=root / source.stdlib.relative_to(source.prefix),
        libraries=root / "lib",
    )
    staged.libraries.mkdir(parents=True)
    _copy_program(source, staged)
    shutil.copytree(source.stdlib, staged.stdlib, ignore=left_out, dirs_exist_ok=True)
    extensions = root / source.extensions.relative_to(source.prefix)
    shutil.copytree(source.extensions, extensions, ignore=left_out, dirs_exist_ok=True)
    refuse_user_site(root)
    _drop_broken_extensions(source, extensions, say)
    originals = [source.executable, *(source.extensions / path.name for path in extensions.iterdir())]
    copy_libraries(staged, originals)
    _make_relocatable(staged, extensions)
    return staged


def _copy_program(source: Interpreter, staged: StagedInterpreter) -> None:
    staged.executable.parent.mkdir(parents=True)
    shutil.copyfile(source.executable, staged.executable)
    staged.executable.chmod(0o755)
    for alias in ("python3", "python"):
        (staged.executable.parent / alias).symlink_to(staged.executable.name)


def left_out(_folder: str, names: list[str]) -> set[str]:
    """The names in a folder of a Python that no training run uses; for `shutil.copytree`."""
    return {
        name
        for name in names
        if name in _LEFT_OUT or name.startswith(_LEFT_OUT_STARTS) or name.endswith((".a", ".exe"))
    }


def refuse_user_site(root: Path) -> None:
    """Make a copied Python pass over packages that somebody has installed for themselves."""
    # What somebody once installed for themselves on the machine must not shadow what is locked here. Without
    # the key `home`, which makes a virtual environment, this file says that and nothing more.
    (root / "pyvenv.cfg").write_text("include-system-site-packages = false\n", encoding="utf-8")


def _drop_broken_extensions(source: Interpreter, extensions: Path, say: Callable[[str], None]) -> None:
    for path in sorted(extensions.iterdir()):
        elf = read_elf(path)
        if elf is None:
            continue
        wanted = [name for name in elf.needed if not belongs_to_machine(name)]
        if wanted and not set(wanted) <= libraries_of(source.extensions / path.name).keys():
            say(f"left out {path.name}: this machine itself lacks one of {', '.join(wanted)}")
            path.unlink()


def copy_libraries(staged: StagedInterpreter, users: Sequence[Path]) -> list[str]:
    """Copy the libraries that files need from this machine, unless they are in the copy already.

    Returns:
        The names of those copied now.
    """
    added = []
    for user in users:
        elf = read_elf(user)
        if elf is None or all(_is_provided(staged, name) for name in elf.needed):
            continue
        for name, where in libraries_of(user).items():
            if where.resolve().is_relative_to(staged.root) or (staged.libraries / name).exists():
                continue
            shutil.copyfile(where, staged.libraries / name)
            patch_elf(staged.libraries / name, search_path="$ORIGIN")
            added.append(name)
    return added


def _is_provided(staged: StagedInterpreter, name: str) -> bool:
    return belongs_to_machine(name) or (staged.libraries / name).exists()


def _make_relocatable(staged: StagedInterpreter, extensions: Path) -> None:
    patch_elf(staged.executable, search_path="$ORIGIN/../lib")
    towards = os.path.relpath(staged.libraries, extensions)
    for elf in elf_files(extensions):
        if elf.search_path or any((staged.libraries / name).exists() for name in elf.needed):
            patch_elf(elf.path, search_path=f"$ORIGIN/{towards}")
