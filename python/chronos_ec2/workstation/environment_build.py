"""Builds the training environment: one archive with its own Python, for a machine that has none.

    python -m chronos_ec2.workstation.environment_build --requirements requirements/instance-test.lock \\
        --output .chronos/env

Writes `chronos-venv-{python version}-{digest}.squashfs` and `MANIFEST.json` to the output folder and prints
the archive's path; `--format tar.gz` gives `chronos-venv-{python version}.tar.gz`. Mounted, or unpacked, at
FOLDER it gives FOLDER/bin/python3. Nothing is built when nothing changed.
On Linux x86-64 the archive carries this machine's Python, and every package is imported before it is packed.
Elsewhere, and with `--platform linux-x86-64`, it carries a Python that may be moved and the wheels for the
instances, which are inspected instead (environment_cross.py). It runs where glibc is as new as the manifest
says, with the libraries that the manifest's machine_libraries names.
Exit status: 0 done, 1 failed, 2 wrong usage, 24 a tool is missing, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from chronos_ec2 import pieces_digest
from chronos_ec2.errors import ChronosError
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.workstation.environment_archive import (
    FORMATS,
    content_digest,
    matches,
    pack,
    possible_format,
    sha256_of,
    space_of,
)
from chronos_ec2.workstation.environment_cross import interpreter_identity, stage_for_instances
from chronos_ec2.workstation.environment_elf import drop_symbols, elf_files, highest_glibc, patch_elf
from chronos_ec2.workstation.environment_interpreter import Interpreter, StagedInterpreter, copy_interpreter
from chronos_ec2.workstation.environment_packages import (
    LockedRequirements,
    bring_system_libraries,
    compile_packages,
    install_packages,
    installed_packages,
    trim_packages,
    try_environment,
)

MANIFEST_NAME = "MANIFEST.json"
ARCHIVE_PATTERN = "chronos-venv-*"
_PACKED = "packed"
_STAGING_PREFIX = ".building-"
THIS_MACHINE, INSTANCES = "this", "linux-x86-64"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Content:
    """What a folder was filled with.

    Attributes:
        python: The interpreter's version, such as "3.11.7".
        machine: What it runs on, such as "x86_64".
        installed: Its packages, as `name==version`.
        glibc: The oldest glibc that can run all of it.
        machine_libraries: Libraries that packages are linked to and the archive does not bring.
    """

    python: str
    machine: str
    installed: list[str]
    glibc: str
    machine_libraries: list[str]


Fill = Callable[[LockedRequirements, Path, Say, bool], Content]
"""Puts interpreter and packages into an empty folder; the last argument is whether to trim."""


@dataclass(frozen=True)
class BuiltEnvironment:
    """What lies in the output folder.

    Attributes:
        archive: The archive.
        manifest: The content of MANIFEST.json beside it.
        rebuilt: False if everything was there already.
    """

    archive: Path
    manifest: dict[str, Any]
    rebuilt: bool


def build_environment(
    requirements: Path,
    output: Path,
    *,
    say: Say,
    now: Callable[[], datetime] = utc_now,
    trim: bool = True,
    archive_format: str = "squashfs",
    platform_name: str | None = None,
    interpreter: Path | None = None,
) -> BuiltEnvironment:
    """Build the environment unless the output folder holds it already.

    Args:
        requirements: A file of packages locked to one version each.
        output: The folder for archive and manifest; made if missing. Two builds into it wait for each other.
        say: Takes progress, a line at a time.
        now: The clock.
        trim: Whether to drop what training never opens in well-known packages.
        archive_format: What to pack it in, if this machine can (see environment_archive.py).
        platform_name: `THIS_MACHINE` or `INSTANCES`; None takes the former on Linux x86-64, else the latter.
        interpreter: A tarball or folder of a Python that may be moved, for `INSTANCES`; None: uv fetches one.

    Raises:
        ChronosError: It cannot be built; what the folder held is as it was.
    """
    output = output.resolve()
    locked = LockedRequirements.read(requirements)
    archive_format = possible_format(archive_format, say)
    if (platform_name or _platform_here()) == INSTANCES:
        origin, fill = interpreter_identity(interpreter), functools.partial(_fill_for_instances, interpreter)
    else:
        own = Interpreter.running()
        origin = [own.version, sys.version, str(own.prefix), platform.machine()]
        fill = functools.partial(_fill_from_here, own)
    inputs = _digest_of_inputs(origin, requirements, trim, archive_format)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _alone_in(output, say):
            manifest = _read_manifest(output)
            archive = output / Path(str(manifest.get("archive"))).name
            if manifest.get("inputs_sha256") == inputs and matches(archive, manifest):
                say(f"environment unchanged: {archive.name}, {_megabytes(manifest['bytes'])}")
                return BuiltEnvironment(archive, manifest, rebuilt=False)
            with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=output) as folder:
                facts = _build(fill, locked, Path(folder), say, trim, archive_format)
                packed = Path(folder) / _PACKED
                manifest = _describe(packed, facts, inputs, archive_format, now())
                archive = output / manifest["archive"]
                _publish(packed, manifest, output)
    except OSError as error:
        raise ChronosError(f"cannot build into {output}: {error}") from error
    say(f"built {archive} ({_megabytes(manifest['bytes'])}, needs glibc {manifest['glibc']} or newer)")
    return BuiltEnvironment(archive, manifest, rebuilt=True)


def _platform_here() -> str:
    return THIS_MACHINE if (sys.platform, platform.machine()) == ("linux", "x86_64") else INSTANCES


def _digest_of_inputs(origin: Sequence[str], requirements: Path, trim: bool, archive_format: str) -> str:
    parts = [*origin, str(trim), archive_format]
    # The builder is an input as well: whoever changes it must not have to remember a version number.
    sources = sorted(Path(__file__).parent.glob("environment_*.py"))
    digests = [sha256_of(path) for path in (*sources, Path(pieces_digest.__file__), requirements)]
    return hashlib.sha256("\n".join([*parts, *digests]).encode()).hexdigest()


@contextmanager
def _alone_in(output: Path, say: Say) -> Iterator[None]:
    descriptor = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another build into {output} is running; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever made these was killed: a running build would hold the lock.
        for leftover in output.glob(f"{_STAGING_PREFIX}*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        yield
    finally:
        os.close(descriptor)


def _read_manifest(output: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((output / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


@dataclass(frozen=True)
class _Facts:
    content: Content
    unpacked_bytes: int
    content_sha256: str


def _build(
    fill: Fill, locked: LockedRequirements, folder: Path, say: Say, trim: bool, archive_format: str
) -> _Facts:
    root = folder / "root"
    content = fill(locked, root, say, trim)
    say(f"packing as .{archive_format}")
    pack(root, folder / _PACKED, archive_format)
    return _Facts(content, space_of(root), content_digest(root))


def _fill_from_here(
    interpreter: Interpreter, locked: LockedRequirements, root: Path, say: Say, trim: bool
) -> Content:
    """Copy the running Python, install into it, and try what came out."""
    say(f"copying Python {interpreter.version} from {interpreter.prefix}")
    staged = copy_interpreter(interpreter, root, say)
    packages = staged.packages_folder()
    say(f"installing {len(locked.pins)} packages of {locked.path}")
    install_packages(locked, packages)
    if trim:
        trim_packages(packages)
    loose = bring_system_libraries(staged, packages)
    if loose:
        patch_elf(staged.executable, search_path="$ORIGIN/../lib", also_needs=loose)
    glibc = highest_glibc(elf_files(staged.root))
    _drop_own_symbols(staged, packages)
    say("compiling modules")
    compile_packages(staged)
    say("importing every package once")
    try_environment(staged, locked.pins)
    return Content(interpreter.version, platform.machine(), installed_packages(packages), glibc, [])


def _fill_for_instances(
    interpreter: Path | None, locked: LockedRequirements, root: Path, say: Say, trim: bool
) -> Content:
    """Stage what the instances run, which this machine may not be able to."""
    facts = stage_for_instances(locked, root, interpreter, say, trim=trim)
    for name, user in sorted(facts.absent.items()):
        say(f"the instance's image has to bring {name}, which {user} names")
    return Content(
        facts.python, "x86_64", installed_packages(facts.packages), facts.glibc, sorted(facts.absent)
    )


def _drop_own_symbols(staged: StagedInterpreter, packages: Path) -> None:
    for elf in list(elf_files(staged.root)):
        if not elf.path.is_relative_to(packages):
            drop_symbols(elf.path)


def _describe(
    packed: Path,
    facts: _Facts,
    inputs: str,
    archive_format: str,
    built_at: datetime,
) -> dict[str, Any]:
    digest = sha256_of(packed)
    # The document's name stands for one archive at a time; the others name their content.
    content = "" if archive_format == "tar.gz" else f"-{digest[:16]}"
    return {
        "archive": f"chronos-venv-{facts.content.python}{content}.{archive_format}",
        "format": archive_format,
        "sha256": digest,
        "pieces_sha256": pieces_digest.pieces_sha256_of(packed),
        "content_sha256": facts.content_sha256,
        "bytes": packed.stat().st_size,
        "unpacked_bytes": facts.unpacked_bytes,
        "python": facts.content.python,
        "glibc": facts.content.glibc,
        "machine": facts.content.machine,
        "machine_libraries": facts.content.machine_libraries,
        "requirements": facts.content.installed,
        "inputs_sha256": inputs,
        "built_at": to_text(built_at),
    }


def _publish(packed: Path, manifest: dict[str, Any], output: Path) -> None:
    # The manifest comes last: until it is there, the old one does not match the new archive, and a reader
    # that checks takes neither.
    staged_manifest = packed.with_name(MANIFEST_NAME)
    staged_manifest.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    packed.replace(output / manifest["archive"])
    staged_manifest.replace(output / MANIFEST_NAME)
    for older in output.glob(ARCHIVE_PATTERN):
        if older.name != manifest["archive"]:
            older.unlink()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _stop(number: int, _frame: object) -> NoReturn:
    # As an exception, so that the half-built folder is deleted on the way out.
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="environment_build", description="Build the training environment into one archive."
    )
    parser.add_argument("--requirements", type=Path, required=True, help="locked requirements file")
    parser.add_argument("--output", type=Path, required=True, help="folder for the archive and MANIFEST.json")
    parser.add_argument(
        "--whole-packages", action="store_true", help="keep tests, headers and all AWS services"
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="what to pack it in")
    parser.add_argument(
        "--platform",
        choices=(THIS_MACHINE, INSTANCES),
        help="this: copy and try this machine's Python (the default on Linux x86-64); "
        "linux-x86-64: stage and inspect what the instances run (the default elsewhere)",
    )
    parser.add_argument(
        "--interpreter", type=Path, help="for linux-x86-64: tarball or folder of a Python that may be moved"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options = parser.parse_args(arguments)
    started = time.monotonic()

    def say(line: str) -> None:
        if not options.quiet:
            print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        built = build_environment(
            options.requirements,
            options.output,
            say=say,
            trim=not options.whole_packages,
            archive_format=options.format,
            platform_name=options.platform,
            interpreter=options.interpreter,
        )
    except ChronosError as error:
        print(f"environment_build: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(built.archive)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
