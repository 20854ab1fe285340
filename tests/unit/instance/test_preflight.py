"""The preflight as a real process, with a driver and a torch of the test's making."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY, is_alive

SCRIPT = REPOSITORY / "python/preflight_check.py"
NAMES = ["nvidia_driver", "cuda", "gpu_count", "python_environment", "disk", "memory"]
TORCH = """
class cuda:
    is_available = staticmethod(lambda: {available})
    device_count = staticmethod(lambda: 2)
    get_device_name = staticmethod(lambda index: "Tesla T4")
class version: cuda = "12.4"
__version__ = "2.6.0"
"""


class Machine:
    """A machine with what the test put on it: `nvidia-smi` on PATH, modules on PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.modules = folder / "site"
        self.programs.mkdir()
        self.modules.mkdir()

    def program(self, text: str) -> None:
        path = self.programs / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def module(self, name: str, text: str) -> None:
        (self.modules / f"{name}.py").write_text(text)

    def stand_in_for_packages(self) -> None:
        """Empty stand-ins for the packages, so that a short time-out hits what the test means."""
        for name in ("numpy", "pyarrow", "boto3", "yaml"):
            self.module(name, "__version__ = '0'")

    def run(self, *flags: str) -> tuple[int, str, str]:
        environment = {
            **os.environ,
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "PYTHONPATH": str(self.modules),
        }
        argv = [
            sys.executable,
            str(SCRIPT),
            "--path",
            str(self.folder),
            "--min-free-disk-gb",
            "0.001",
            *flags,
        ]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout, done.stderr

    def report(self, *flags: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = self.run("--json", *flags)
        body = json.loads(out)
        assert [check["name"] for check in body["checks"]] == NAMES, "every check is reported, whatever fails"
        assert body["ok"] is (code == 0)
        return code, {check["name"]: check for check in body["checks"]}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.stand_in_for_packages()
    return made


@pytest.fixture
def gpu_machine(machine: Machine) -> Machine:
    machine.program("echo 'Tesla T4, 550.54.15, 15360 MiB'; echo 'Tesla T4, 550.54.15, 15360 MiB'")
    machine.module("torch", TORCH.format(available=True))
    return machine


def test_a_machine_with_gpus_passes(gpu_machine: Machine) -> None:
    code, checks = gpu_machine.report("--accelerator", "cuda")
    assert code == 0
    assert "550.54.15, 15360 MiB; Tesla" in checks["nvidia_driver"]["detail"]
    assert checks["cuda"]["detail"] == "torch 2.6.0, CUDA 12.4"
    assert checks["gpu_count"]["detail"] == "2 (Tesla T4, Tesla T4)"
    assert "numpy" in checks["python_environment"]["detail"]
    assert all(check["remedy"] is None for check in checks.values())


def test_cuda_without_a_gpu_fails_and_says_how_to_ask_for_cpu(machine: Machine) -> None:
    machine.module("torch", TORCH.format(available=False))
    code, checks = machine.report("--accelerator", "cuda")
    assert code == 1
    for name in ("nvidia_driver", "cuda", "gpu_count"):
        assert not checks[name]["ok"] and "accelerator: cpu" in checks[name]["remedy"]
    assert checks["disk"]["ok"] and checks["memory"]["ok"]


def test_a_cpu_run_says_that_it_skipped(machine: Machine) -> None:
    machine.program("exit 99")
    code, checks = machine.report("--accelerator", "cpu")
    assert code == 0
    assert [checks[name]["detail"] for name in NAMES[:3]] == ["skipped: accelerator is cpu"] * 3
    assert "torch" not in checks["python_environment"]["detail"]


def test_the_config_says_what_the_run_needs(machine: Machine) -> None:
    config = machine.folder / "config.yaml"
    config.write_text("run_id: 2025-01-15-143022\naccelerator: cpu  # asked for\nmin_free_disk_gb: 20\n")
    assert machine.run("--config", str(config))[0] == 0
    code, out, _ = machine.run("--config", str(config), "--accelerator", "cuda")
    assert code == 1 and "FAIL  nvidia_driver" in out


def test_the_accelerator_is_never_guessed(machine: Machine) -> None:
    config = machine.folder / "config.yaml"
    config.write_text("trainer: test\n")
    for flags in ((), ("--config", str(config)), ("--accelerator", "tpu"), ("--config", "/no/such/file")):
        assert machine.run(*flags)[0] == 2


def test_a_driver_that_hangs_or_fails_is_a_failed_check(gpu_machine: Machine) -> None:
    # the background sleep holds the pipe: killing the shell alone would not end the wait
    gpu_machine.program(f"sleep 30 & echo $! > {gpu_machine.folder}/pid; sleep 30")
    code, checks = gpu_machine.report("--accelerator", "cuda", "--timeout-seconds", "2.5")
    assert code == 1
    assert checks["nvidia_driver"]["detail"] == "nvidia-smi did not answer within 2.5 s"
    assert checks["cuda"]["ok"]
    assert not is_alive(int((gpu_machine.folder / "pid").read_text()))
    gpu_machine.program("echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9")
    _, checks = gpu_machine.report("--accelerator", "cuda")
    assert "exited with 9: NVIDIA-SMI has failed" in checks["nvidia_driver"]["detail"]


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ("import os; os.abort()", "torch: crashed (-6)"),
        ("raise OSError('libcudart.so.12: cannot open')", "torch: OSError: libcudart.so.12"),
        ("raise SystemExit(0)", "torch: SystemExit"),
        ("import time; time.sleep(60)", "torch: no answer within 2.5 s"),
    ],
    ids=["crashes", "raises", "exits", "hangs"],
)
def test_a_broken_torch_does_not_take_the_report_down(gpu_machine: Machine, torch: str, words: str) -> None:
    gpu_machine.module("torch", torch)
    code, checks = gpu_machine.report("--accelerator", "cuda", "--timeout-seconds", "2.5")
    assert code == 1
    assert words in checks["python_environment"]["detail"]
    assert not checks["cuda"]["ok"] and "torch cannot be imported" in checks["cuda"]["detail"]
    assert not checks["gpu_count"]["ok"] and checks["nvidia_driver"]["ok"]


def test_a_cuda_call_that_crashes_is_told_from_a_missing_torch(gpu_machine: Machine) -> None:
    crash = "__import__('os').abort()"
    gpu_machine.module("torch", TORCH.format(available=crash))
    code, checks = gpu_machine.report("--accelerator", "cuda")
    assert code == 1
    assert "crashed (-6)" in checks["cuda"]["detail"] and "imported" not in checks["cuda"]["detail"]
    assert checks["python_environment"]["ok"]


def test_modules_that_do_not_import_are_named_all(machine: Machine) -> None:
    machine.module("numpy", "raise ImportError('no numpy here')")
    machine.module("yaml", "raise ImportError('no yaml here')")
    code, checks = machine.report("--accelerator", "cpu")
    assert code == 1
    detail = checks["python_environment"]["detail"]
    assert "no numpy here" in detail and "no yaml here" in detail and "boto3" in detail
    assert "invoke build-env" in checks["python_environment"]["remedy"]


def test_another_environment_than_the_expected_fails(machine: Machine) -> None:
    code, checks = machine.report("--accelerator", "cpu", "--venv", str(machine.folder))
    assert code == 1 and f"not to {machine.folder}" in checks["python_environment"]["detail"]
    assert machine.run("--accelerator", "cpu", "--venv", sys.prefix)[0] == 0


def test_too_little_space_fails_with_both_figures(machine: Machine) -> None:
    flags = ("--min-free-disk-gb", "99999999", "--path", str(machine.folder / "yet/to/be/made"))
    code, out, _ = machine.run("--accelerator", "cpu", *flags)
    assert code == 1
    assert f"GB free at {machine.folder}, 1e+08 GB needed" in out and "fix: give the instance" in out


def test_the_real_packages_import(tmp_path: Path) -> None:
    code, checks = Machine(tmp_path).report("--accelerator", "cpu")
    assert code == 0
    assert f"pyarrow {version('pyarrow')}" in checks["python_environment"]["detail"]


def test_it_runs_without_any_package(machine: Machine) -> None:
    argv = [sys.executable, "-S", "-E", str(SCRIPT), "--accelerator", "cpu", "--path", "/", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, env={"PATH": "/bin"})
    assert done.returncode in (0, 1), done.stderr
    assert len(json.loads(done.stdout)["checks"]) == 6
