"""Installs locked packages into a copied Python, drops what training never opens, and tries the result."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from chronos_ec2.errors import ChronosError, ToolMissing
from chronos_ec2.workstation.environment_elf import elf_files
from chronos_ec2.workstation.environment_interpreter import StagedInterpreter, copy_libraries

_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?==([A-Za-z0-9.+!_-]+)\s*(;.*)?")

# The instance's role allows S3 and EC2; the rest are here for trainers that bring keys of their own.
_AWS_SERVICES = frozenset(
    {"cloudwatch", "ec2", "kms", "logs", "s3", "s3control", "secretsmanager", "ssm", "sso", "sso-oidc", "sts"}
)

# Patterns of files, in a package's folder, that serve to build, test or describe it.
_UNUSED = {
    "pyarrow": (
        "tests",
        "include",
        "src",
        "includes",
        "*.pyx",
        "*.pxd",
        "*.pxi",
        "_pyarrow_cpp_tests*",
        # A remote procedure call server, 33 MB.
        "_flight*",
        "flight.py",
        "libarrow_flight*",
        "libarrow_python_flight*",
        # The same libraries again, under the names that a compiler looks for.
        "libarrow_python.so",
        "libarrow_python.so.*.*",
        "libarrow_python_parquet_encryption.so",
        "libarrow_python_parquet_encryption.so.*.*",
    ),
    "numpy": ("**/tests", "_core/include", "_core/lib", "**/*.pyi", "**/*.pxd", "f2py/src"),
    "boto3": ("examples",),
}


@dataclass(frozen=True)
class LockedRequirements:
    """A requirements file in which every package has one version.

    Attributes:
        path: The file.
        pins: Its packages as `name==version`, in the file's order.
    """

    path: Path
    pins: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> LockedRequirements:
        """Read a requirements file; options for pip and hashes may stand in it.

        Raises:
            ChronosError: It cannot be read, or a package in it has no exact version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChronosError(f"cannot read the requirements file {path}: {error}") from None
        pins = []
        for number, line in enumerate(text.replace("\\\n", " ").splitlines(), start=1):
            words = re.split(r"(?:^|\s)#", line)[0].split("--hash")[0].strip()
            if not words or words.startswith("-"):
                continue
            match = _PINNED.fullmatch(words)
            if match is None:
                raise ChronosError(
                    f"{path}, line {number}: {words!r} is not locked to one version; "
                    "write name==version (invoke lock does)"
                )
            pins.append(f"{match[1]}=={match[3]}")
        if not pins:
            raise ChronosError(f"{path} names no package")
        return cls(path, tuple(pins))


def install_packages(requirements: LockedRequirements, packages: Path) -> None:
    """Install locked packages for the running Python's version, and what one of them pins beside the lock.

    The CUDA packages are such: the torch that pip takes brings its own, and a CPU build has none.

    Args:
        requirements: What to install.
        packages: The folder to install into.

    Raises:
        ChronosError: pip cannot find or install one of them, or they do not go together.
    """
    # Compiled code would tie the archive to this machine's compiler and libraries: wheels only.
    options = [
        "--no-compile",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(packages)]
    result = subprocess.run(
        [*command, "--requirement", str(requirements.path)], capture_output=True, text=True, check=False
    )
    if "No module named pip" in result.stderr:
        raise ToolMissing(f"{sys.executable} has no pip; add it with: {sys.executable} -m ensurepip")
    if result.returncode != 0:
        reason = "\n".join(result.stderr.strip().splitlines()[-8:])
        raise ChronosError(f"pip cannot install {requirements.path}:\n{reason}")
    # Entry points name this machine's Python in their first line; packages are run with `python -m`.
    shutil.rmtree(packages / "bin", ignore_errors=True)


def trim_packages(packages: Path) -> None:
    """Delete from well-known packages what no training run opens."""
    for package, patterns in _UNUSED.items():
        for pattern in patterns:
            for path in sorted((packages / package).glob(pattern)):
                _delete(path)
    services = packages / "botocore" / "data"
    for path in sorted(services.iterdir()) if services.is_dir() else ():
        if path.is_dir() and path.name not in _AWS_SERVICES:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def installed_packages(packages: Path) -> list[str]:
    """What a folder of packages holds, as `name==version`, by what each says of itself."""
    found = metadata.distributions(path=[str(packages)])
    return sorted(f"{one.metadata['Name']}=={one.version}" for one in found)


def bring_system_libraries(staged: StagedInterpreter, packages: Path) -> list[str]:
    """Copy the libraries that wheels expect on every machine, such as the C++ runtime.

    Returns:
        The names of the libraries that the packages do not find by themselves.
    """
    shipped = {path.name for path in packages.rglob("*.so*")}
    users = [elf for elf in elf_files(packages) if not set(elf.needed) <= shipped]
    copy_libraries(staged, [elf.path for elf in users])
    wanted = {name for elf in users for name in elf.needed} - shipped
    return sorted(name for name in wanted if (staged.libraries / name).exists())


def compile_packages(staged: StagedInterpreter) -> None:
    """Write the bytecode of all modules, so that the first import on the instance does not.

    The bytecode is not checked against the source's time: the times in the archive are all the same.
    """
    result = staged.run(
        "-m",
        "compileall",
        "-qq",
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        str(staged.root),
        str(staged.root),
    )
    # A module in another Python's syntax, as some packages carry, is left as it is.
    if result.returncode not in (0, 1):
        raise ChronosError(f"the copied Python cannot compile its modules: {result.stderr.strip()}")


_TRIAL = """
import importlib, sys
from importlib import metadata
import bz2, ctypes, decimal, hashlib, lzma, sqlite3, ssl, uuid, zlib
modules = metadata.packages_distributions()
normal = lambda name: name.lower().replace("_", "-").replace(".", "-")
for pin in sys.argv[1:]:
    name = pin.partition("==")[0]
    for module, owners in modules.items():
        if normal(name) in map(normal, owners) and module.isidentifier() and not module.startswith("_"):
            importlib.import_module(module)
"""


def try_environment(staged: StagedInterpreter, pins: Sequence[str]) -> None:
    """Import with the copied Python what it has of some packages; those for other platforms are not there.

    Raises:
        ChronosError: One of them cannot be imported.
    """
    result = staged.run("-c", _TRIAL, *pins)
    if result.returncode != 0:
        reason = "\n".join(result.stderr.strip().splitlines()[-5:])
        raise ChronosError(f"the built environment does not work, so it was not kept:\n{reason}")
