"""This machine's programs and packages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from chronos_ec2.errors import ToolMissing
from chronos_ec2.workstation.commands import base_environment
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.settings import REPOSITORY
from chronos_ec2.workstation.toolchain import node_bin, node_program

SET_UP: Final = "./invokew setup"
_PROGRAM_SECONDS: Final = 30
# inherit_errexit, which every script of this project relies on, came with Bash 4.4; macOS ships 3.2.
_OLDEST_BASH: Final = (4, 4)
_PROGRAMS: Final = ("git", "jq", "sha256sum", "curl")
_SAME: Final = {"sha256sum": "shasum"}
"""What does as well."""
_PIN: Final = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", re.MULTILINE)

Run = Callable[[Sequence[str], Mapping[str, str] | None], "Printed"]


@dataclass(frozen=True, slots=True)
class Printed:
    """What a program printed, and its exit code; 127 when it is not there."""

    code: int
    out: str
    err: str = ""


def run_program(argv: Sequence[str], env: Mapping[str, str] | None) -> Printed:
    """Run a program with the pinned ones first on PATH."""
    try:
        done = subprocess.run(
            argv,
            env=dict(env or base_environment()),
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return Printed(127, "", f"{argv[0]} is not installed")
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Printed(126, "", str(problem))
    return Printed(done.returncode, done.stdout, done.stderr)


def _path() -> str:
    return base_environment()["PATH"]


def installed_packages() -> dict[str, str]:
    """The versions of this Python's packages, by normalized name."""
    return {normal(item.metadata["Name"]): item.version for item in distributions()}


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, as the checks see it.

    Attributes:
        run: runs a program.
        which: finds a program.
        packages: the installed Python packages.
        node: finds Node.js's folder; raises ToolMissing.
        node_program: finds a program of node_modules; raises ToolMissing.
        repository: this repository's root.
    """

    run: Run = run_program
    which: Callable[[str], str | None] = field(default=lambda name: shutil.which(name, path=_path()))
    packages: Callable[[], Mapping[str, str]] = installed_packages
    node: Callable[[], Path] = node_bin
    node_program: Callable[[str, str], Path] = node_program
    repository: Path = REPOSITORY


def programs(machine: Machine) -> list[Finding]:
    """Bash and the small programs that the scripts call."""
    missing = [
        name
        for name in ("bash", *_PROGRAMS)
        if machine.which(name) is None and machine.which(_SAME.get(name, name)) is None
    ]
    if missing:
        return [
            error(
                f"not installed: {', '.join(missing)}",
                f"sudo apt-get install {_packages(missing)} (macOS: brew install {_packages(missing)})",
            )
        ]
    words = machine.run(["bash", "-c", 'echo "${BASH_VERSINFO[0]}.${BASH_VERSINFO[1]}"'], None).out.strip()
    version = tuple(int(part) for part in words.split(".")) if re.fullmatch(r"\d+\.\d+", words) else (0,)
    if version < _OLDEST_BASH:
        return [error(f"Bash {words or '?'} is too old, the scripts need 4.4", "brew install bash")]
    return [ok(f"bash {words}, {', '.join(_PROGRAMS)}")]


def _packages(programs: Sequence[str]) -> str:
    return " ".join(dict.fromkeys("coreutils" if name == "sha256sum" else name for name in programs))


def aws_command(machine: Machine) -> list[Finding]:
    """The AWS CLI: S3's conditional CopyObject is what makes the state file safe."""
    skeleton = machine.run(["aws", "s3api", "copy-object", "--generate-cli-skeleton", "input"], None)
    if skeleton.code:
        return [error(f"the aws command does not run: {last_line(skeleton)}", SET_UP)]
    version = machine.run(["aws", "--version"], None).out.split(" ")[0].strip() or "aws"
    try:
        conditions = {"IfMatch", "IfNoneMatch"} - set(json.loads(skeleton.out))
    except ValueError:
        conditions = {"IfMatch"}
    if conditions:
        return [error(f"{version} does not know conditional CopyObject, so two launches could win", SET_UP)]
    return [ok(f"{version}, with conditional CopyObject")]


def python_packages(machine: Machine) -> list[Finding]:
    """The Python packages, compared with the lock file."""
    lock = (machine.repository / "requirements" / "dev.lock").read_text()
    wanted = {normal(name): version for name, version in _PIN.findall(lock)}
    found = machine.packages()
    missing = sorted(name for name in wanted if name not in found)
    other = sorted(
        f"{name} {found[name]} for {version}"
        for name, version in wanted.items()
        if not _pinned(found.get(name, version), version)
    )
    if missing:
        return [error(f"packages of requirements/dev.lock are missing: {_some(missing)}", SET_UP)]
    if other:
        return [warning(f"other versions than in requirements/dev.lock: {_some(other)}", SET_UP)]
    return [ok(f"{len(wanted)} packages as in requirements/dev.lock")]


def _pinned(found: str, version: str) -> bool:
    """Whether pip takes a version for the pinned one: a label (2.13.0+cpu) is left aside (PEP 440)."""
    return version in (found, found.partition("+")[0])


def cdk(machine: Machine) -> list[Finding]:
    """Node.js and the CDK CLI, which `deploy` runs."""
    try:
        node, program = machine.node() / "node", machine.node_program("aws-cdk", "cdk")
    except ToolMissing as problem:
        return [error(str(problem).split(":")[0], SET_UP)]
    version = machine.run([str(node), "--version"], None)
    if version.code:
        return [error(f"Node.js does not run: {last_line(version)}", SET_UP)]
    found, locked = _cdk_versions(machine.repository, program)
    if found != locked:
        return [warning(f"aws-cdk is {found}, package-lock.json says {locked}", SET_UP)]
    return [ok(f"node {version.out.strip()}, aws-cdk {found}")]


def _cdk_versions(repository: Path, program: Path) -> tuple[str, str]:
    here: dict[str, Any] = json.loads((program.parents[1] / "package.json").read_text())
    lock: dict[str, Any] = json.loads((repository / "package-lock.json").read_text())
    return str(here["version"]), str(lock["packages"]["node_modules/aws-cdk"]["version"])


def last_line(printed: Printed) -> str:
    """The last thing that a program said, which is its reason."""
    lines = (printed.err.strip() or printed.out.strip()).splitlines()
    return lines[-1].strip() if lines else f"exit code {printed.code}"


def _some(items: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
