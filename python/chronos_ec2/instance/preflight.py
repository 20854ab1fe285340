"""Checks before a rented GPU is put to work: all run, all reported, then exit 0 or 1.

usage: preflight_check.py (--accelerator cuda|cpu | --config FILE) [--json] [--path DIR]
                          [--min-free-disk-gb N] [--venv DIR] [--timeout-seconds N]

Checks: nvidia_driver, cuda, gpu_count, python_environment, disk, memory. A CPU run is asked for, never
guessed: with `cuda` and no GPU the checks fail, with `cpu` the three GPU checks say that they were skipped.
Standard library only, because a broken environment is one of the things to find.

Exit: 0 all checks passed; 1 at least one failed; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chronos_ec2.instance.bounded_run import Finished, run_bounded

ACCELERATORS = ("cuda", "cpu")
GIGABYTE = 10**9
MIN_PYTHON = (3, 11)
MODULES = ("numpy", "pyarrow", "boto3", "yaml")
TRAINER_MODULES = {"chronos": ("torch", "safetensors")}
DEFAULT_FREE_DISK_GB = 20.0
DEFAULT_TIMEOUT_SECONDS = 120.0
_ASK_FOR_CPU = "take an instance type and an AMI with an NVIDIA GPU, or ask for a CPU run (accelerator: cpu)"
_NVIDIA_SMI = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]


@dataclass(frozen=True)
class Check:
    """One check's result; `remedy` says what to do when it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Request:
    """What the checks are to look at; `venv` is the environment that must be the running one."""

    accelerator: str
    path: Path
    trainer: str = ""
    min_free_disk_gb: float = DEFAULT_FREE_DISK_GB
    venv: Path | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS


@dataclass(frozen=True)
class Probe:
    """What the import process said: versions and errors by module, CUDA's facts, how it ended."""

    versions: dict[str, str]
    errors: dict[str, str]
    cuda: dict[str, Any] | None


def last_line(text: str) -> str:
    """The last line that says something, for a message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def read_probe(finished: Finished, timeout_seconds: float) -> Probe:
    """Turn the import process's lines into a `Probe`; what it was trying when it died is an error."""
    versions: dict[str, str] = {}
    errors: dict[str, str] = {}
    cuda: dict[str, Any] | None = None
    trying = ""
    for line in finished.stdout.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict) or said.get("probe") is not True:
            continue
        if "trying" in said:
            trying = str(said["trying"])
        elif "cuda" in said:
            cuda, trying = said["cuda"], ""
        elif "error" in said:
            errors[said["module"]], trying = said["error"], ""
        else:
            versions[said["module"]], trying = said["version"], ""
    if finished.timed_out:
        errors[trying or "python"] = f"no answer within {timeout_seconds:g} s"
    elif finished.returncode != 0:
        errors[trying or "python"] = f"crashed ({finished.returncode}): {last_line(finished.stderr)}"
    return Probe(versions, errors, cuda)


def run_probe(request: Request) -> Probe:
    """Import the modules of a run in another process: its trainer's too, and torch when it needs CUDA."""
    text = Path(__file__).with_name("environment_probe.py").read_text(encoding="utf-8")
    more = TRAINER_MODULES.get(request.trainer, ("torch",) if request.accelerator == "cuda" else ())
    modules = [*MODULES, *more]
    # from `/`, because `-c` puts the working folder on the path
    argv = [sys.executable, "-c", text, *modules]
    return read_probe(run_bounded(argv, request.timeout_seconds, cwd="/"), request.timeout_seconds)


def check_driver(request: Request) -> Check:
    """The NVIDIA driver answers: name, driver version and memory of each GPU."""
    name = "nvidia_driver"
    try:
        finished = run_bounded(_NVIDIA_SMI, request.timeout_seconds)
    except OSError as error:
        return Check(name, False, f"nvidia-smi cannot be run: {error.strerror}", _ASK_FOR_CPU)
    if finished.timed_out:
        detail = f"nvidia-smi did not answer within {request.timeout_seconds:g} s"
        return Check(name, False, detail, "the driver hangs: launch again, on another instance")
    rows = [row.strip() for row in finished.stdout.splitlines() if row.strip()]
    if finished.returncode != 0 or not rows:
        said = last_line(finished.stdout + finished.stderr)
        detail = f"nvidia-smi exited with {finished.returncode}: {said}"
        return Check(name, False, detail, "take a Deep Learning AMI whose driver fits; " + _ASK_FOR_CPU)
    return Check(name, True, "; ".join(rows))


def check_cuda(probe: Probe) -> Check:
    """torch.cuda.is_available()."""
    name = "cuda"
    if probe.cuda is not None and probe.cuda["available"]:
        detail = f"torch {probe.versions.get('torch', '?')}, CUDA {probe.cuda.get('version')}"
        return Check(name, True, detail)
    if "torch" in probe.errors:
        detail = f"torch cannot be imported: {probe.errors['torch']}"
        return Check(name, False, detail, "build the environment with torch: invoke build-env")
    reason = probe.errors.get("cuda") or (probe.cuda or {}).get("error")
    if probe.cuda is None and reason is None:
        reason = f"the probe ended before it: {'; '.join(probe.errors.values()) or 'no output'}"
    detail = str(reason) if reason else "torch.cuda.is_available() is False"
    return Check(name, False, detail, "use a torch build with CUDA that fits the driver; " + _ASK_FOR_CPU)


def check_gpu_count(probe: Probe) -> Check:
    """At least one GPU that torch may use."""
    count = int((probe.cuda or {}).get("count", 0))
    if count >= 1:
        names = ", ".join((probe.cuda or {}).get("names", []))
        return Check("gpu_count", True, f"{count} ({names})")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = f"; CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""
    return Check("gpu_count", False, f"torch sees no GPU{hint}", _ASK_FOR_CPU)


def check_environment(request: Request, probe: Probe) -> Check:
    """The running Python is the run's environment, new enough, and its modules import."""
    problems = [f"{module}: {error}" for module, error in probe.errors.items() if module != "cuda"]
    if sys.version_info < MIN_PYTHON:
        problems.append(f"Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer is needed")
    if request.venv is not None and Path(sys.prefix).resolve() != request.venv.resolve():
        problems.append(f"this Python belongs to {sys.prefix}, not to {request.venv}")
    versions = ", ".join(f"{module} {version}" for module, version in probe.versions.items())
    running = f"Python {'.'.join(map(str, sys.version_info[:3]))} in {sys.prefix}"
    detail = "; ".join([*problems, running, *([versions] if versions else [])])
    remedy = "rebuild and upload the environment: invoke build-env, invoke upload"
    return Check("python_environment", not problems, detail, remedy if problems else None)


def check_disk(request: Request) -> Check:
    """Free space where data and results go; a folder that is yet to be made counts as its parent."""
    place = request.path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free_gb = shutil.disk_usage(place).free / GIGABYTE
    ok = free_gb >= request.min_free_disk_gb
    detail = f"{free_gb:.1f} GB free at {place}, {request.min_free_disk_gb:g} GB needed"
    return Check("disk", ok, detail, None if ok else "give the instance a larger volume")


def check_memory() -> Check:
    """Memory in total and available: a fact for the record, not a limit."""
    page = os.sysconf("SC_PAGE_SIZE")
    total_gb = page * os.sysconf("SC_PHYS_PAGES") / GIGABYTE
    available_gb = page * os.sysconf("SC_AVPHYS_PAGES") / GIGABYTE
    return Check("memory", True, f"{total_gb:.1f} GB in total, {available_gb:.1f} GB unused")


def run_checks(request: Request) -> list[Check]:
    """Run every check; one that breaks is a check that failed, and the rest still run."""
    needs_gpu = request.accelerator == "cuda"

    def guarded(name: str, check: Callable[[], Check], gpu: bool = False) -> Check:
        if gpu and not needs_gpu:
            return Check(name, True, "skipped: accelerator is cpu")
        try:
            return check()
        except Exception as error:
            detail = f"the check itself broke: {type(error).__name__}: {error}"
            return Check(name, False, detail, "report this as a bug")

    # Both wait for the driver, for seconds after a boot.
    with ThreadPoolExecutor(1) as beside:
        driver = beside.submit(guarded, "nvidia_driver", lambda: check_driver(request), gpu=True)
        try:
            probe = run_probe(request)
        except OSError as error:
            probe = Probe({}, {"python": f"cannot be run: {error}"}, None)
    return [
        driver.result(),
        guarded("cuda", lambda: check_cuda(probe), gpu=True),
        guarded("gpu_count", lambda: check_gpu_count(probe), gpu=True),
        guarded("python_environment", lambda: check_environment(request, probe)),
        guarded("disk", lambda: check_disk(request)),
        guarded("memory", check_memory),
    ]


def config_value(text: str, key: str) -> str | None:
    """A top-level scalar of a run's config.yaml, found without a YAML parser (it may be what is broken)."""
    match = re.search(rf"^[\"']?{key}[\"']?[ \t]*:[ \t]*[\"']?([\w.+-]+)", text, re.MULTILINE)
    return match.group(1) if match else None


def _parse(argv: Sequence[str]) -> tuple[Request, bool]:
    parser = argparse.ArgumentParser(
        prog="preflight_check.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accelerator", choices=ACCELERATORS, help="what the run needs; beats --config")
    parser.add_argument("--config", type=Path, help="the run's config.yaml: accelerator, min_free_disk_gb")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--path", type=Path, help="where free space is needed (default: $CHRONOS_ROOT/data)")
    parser.add_argument("--min-free-disk-gb", type=float, metavar="N", help="GB of 10^9 bytes (default 20)")
    parser.add_argument("--venv", type=Path, metavar="DIR", help="this environment must be the running one")
    parser.add_argument("--timeout-seconds", type=float, default=DEFAULT_TIMEOUT_SECONDS, metavar="N")
    given = parser.parse_args(argv)
    text = ""
    if given.config is not None:
        try:
            text = given.config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--config: {error}")
    accelerator = given.accelerator or config_value(text, "accelerator")
    if accelerator not in ACCELERATORS:
        parser.error(f"say --accelerator cuda or cpu, or give a --config that says so (got {accelerator!r})")
    free_gb = given.min_free_disk_gb
    if free_gb is None:
        try:
            free_gb = float(config_value(text, "min_free_disk_gb") or DEFAULT_FREE_DISK_GB)
        except ValueError as error:
            parser.error(f"--config: min_free_disk_gb: {error}")
    path = given.path or Path(os.environ.get("CHRONOS_ROOT", "") + "/data")
    trainer = config_value(text, "trainer") or ""
    return Request(accelerator, path, trainer, free_gb, given.venv, given.timeout_seconds), given.json


def main(argv: Sequence[str]) -> int:
    """Run the checks that `argv` asks for, print them, and return the exit status."""
    request, as_json = _parse(argv)
    checks = run_checks(request)
    ok = all(check.ok for check in checks)
    if as_json:
        report = {"ok": ok, "accelerator": request.accelerator, "checks": [asdict(check) for check in checks]}
        print(json.dumps(report, indent=2))
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<18}  {check.detail}")
            if check.remedy:
                print(f"{'':<26}fix: {check.remedy}")
    return 0 if ok else 1
