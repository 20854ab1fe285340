"""instance/sampler: what is measured, and that nothing of it can hurt a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import psutil
import pynvml
import pytest

from chronos_ec2.instance.sampler.gpus import Gpus
from chronos_ec2.instance.sampler.idleness import Idleness
from chronos_ec2.instance.sampler.kernel_log import KernelLog
from chronos_ec2.instance.sampler.loop import Sampler
from chronos_ec2.instance.sampler.machine import Machine
from chronos_ec2.metrics_log import parse_lines, sort_records, time_of

PACKAGES = Path(__file__).resolve().parents[3] / "python"
XID = "NVRM: Xid (PCI:0000:00:1e): 79, pid=1234, name=python3, GPU has fallen off the bus."


class TwoGpus:
    """The module pynvml with two GPUs behind it: what the real one lacks cannot be called."""

    def __init__(self) -> None:
        self.module: Any = create_autospec(pynvml)
        self.module.NVMLError = pynvml.NVMLError
        self.module.NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
        self.load = [87, 3]
        self.module.nvmlDeviceGetCount.return_value = 2
        self.module.nvmlDeviceGetHandleByIndex.side_effect = lambda index: index
        self.module.nvmlDeviceGetName.return_value = "Tesla T4"
        self.module.nvmlDeviceGetMemoryInfo.side_effect = lambda _: SimpleNamespace(
            used=11 << 30, total=16 << 30
        )
        self.module.nvmlDeviceGetUtilizationRates.side_effect = lambda at: SimpleNamespace(gpu=self.load[at])
        self.module.nvmlDeviceGetPowerUsage.return_value = 68_200
        self.module.nvmlDeviceGetTemperature.return_value = 71

    def lose_second(self) -> None:
        def rates(at: int) -> SimpleNamespace:
            if at == 1:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            return SimpleNamespace(gpu=self.load[at])

        self.module.nvmlDeviceGetUtilizationRates.side_effect = rates


class Time:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def said() -> list[str]:
    return []


def make_sampler(folder: Path, gpus: Gpus, clock: Time, minutes: float = 2, kmsg: str = "kmsg") -> Sampler:
    return Sampler(
        folder / "metrics.jsonl",
        machine=Machine(folder, psutil, clock),
        gpus=gpus,
        kernel=KernelLog(folder / kmsg, booted_at=lambda: 1_700_000_000),
        idleness=Idleness(minutes, clock),
        phase_file=folder / "phase",
        idle_file=folder / "idle",
        sample_seconds=0.01,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(parse_lines((folder / "metrics.jsonl").read_bytes()))


# -- GPUs


def test_every_gpu_is_described_and_sampled(said: list[str]) -> None:
    gpus = Gpus(said.append, TwoGpus().module)
    assert gpus.problem is None
    assert [(gpu["index"], gpu["name"]) for gpu in gpus.describe()] == [(0, "Tesla T4"), (1, "Tesla T4")]
    assert gpus.sample()[0] == {
        "index": 0,
        "util_percent": 87,
        "memory_bytes": 11 << 30,
        "memory_total_bytes": 16 << 30,
        "power_watts": 68.2,
        "temperature_celsius": 71,
    }
    assert said == []


def test_a_gpu_that_is_lost_is_said_once_and_the_other_goes_on(said: list[str]) -> None:
    nvml = TwoGpus()
    gpus = Gpus(said.append, nvml.module)
    nvml.lose_second()
    for _ in range(3):
        assert [gpu["util_percent"] for gpu in gpus.sample()] == [87, None]
    (line,) = said
    assert "GPU 1 does not tell its utilisation" in line and "lost" in line.lower()


def test_without_the_driver_there_are_no_gpus_and_the_reason_is_known(said: list[str]) -> None:
    gpus = Gpus(said.append)  # the real library: this machine has no NVML
    if gpus.problem is None:
        assert gpus.describe() != []  # a machine with GPUs
        return
    assert "NVML" in gpus.problem
    assert (gpus.describe(), gpus.sample()) == ([], [])


# -- the machine


def test_what_psutil_says_has_units_that_fit(tmp_path: Path) -> None:
    clock = Time()
    machine = Machine(tmp_path, psutil, clock)
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    clock.seconds += 5
    sample = machine.sample()
    assert 0 <= sample["cpu_percent"] <= 100
    assert 0 < sample["memory_bytes"] < sample["memory_total_bytes"] == psutil.virtual_memory().total
    assert 0 < sample["disk_bytes"] <= sample["disk_total_bytes"]
    assert sample["network_in_bytes_per_second"] >= 0 and sample["disk_write_bytes_per_second"] >= 0
    assert machine.describe()["cpus"] == psutil.cpu_count()


def test_rates_are_over_the_time_between_samples_and_unknown_where_a_counter_went_back() -> None:
    counters = iter([(0, 0), (1000, 5000), (3000, 4000)])

    def net_io_counters(pernic: bool) -> dict[str, Any]:
        received, sent = next(counters)
        loopback = SimpleNamespace(bytes_recv=9e9, bytes_sent=9e9)
        return {"lo": loopback, "ens5": SimpleNamespace(bytes_recv=received, bytes_sent=sent)}

    fake = SimpleNamespace(
        cpu_percent=lambda: 1.0,
        virtual_memory=psutil.virtual_memory,
        disk_usage=psutil.disk_usage,
        disk_io_counters=lambda: None,
        net_io_counters=net_io_counters,
    )
    clock = Time()
    machine = Machine(Path("/"), fake, clock)
    clock.seconds += 2
    first = machine.sample()
    assert (first["network_in_bytes_per_second"], first["network_out_bytes_per_second"]) == (500, 2500)
    assert first["disk_read_bytes_per_second"] == 0
    clock.seconds += 4
    second = machine.sample()
    assert (second["network_in_bytes_per_second"], second["network_out_bytes_per_second"]) == (500, None)


# -- idle GPUs


@pytest.mark.parametrize(
    ("phase", "loads", "told"),
    [
        ("training", (0, 1), [2.0]),
        ("training", (0, 40), []),
        ("training", (0, None), []),
        ("results_sync", (0, 0), []),
        ("training", (), []),
    ],
)
def test_only_idle_gpus_in_training_are_told_and_once(
    phase: str, loads: tuple[Any, ...], told: list[float]
) -> None:
    clock = Time()
    idleness, found = Idleness(2, clock), []
    for _ in range(20):
        minutes = idleness.observe(phase, [{"util_percent": load} for load in loads])
        found += [] if minutes is None else [minutes]
        clock.seconds += 30
    assert found == told


def test_idleness_that_begins_anew_is_told_anew_and_none_with_0_minutes() -> None:
    clock = Time()
    idleness, never, found = Idleness(1, clock), Idleness(0, clock), []
    for load in (0, 0, 0, 50, 0, 0, 0):
        found.append(idleness.observe("training", [{"util_percent": load}]))
        assert never.observe("training", [{"util_percent": load}]) is None
        clock.seconds += 40
    assert [minutes is not None for minutes in found] == [False, False, True, False, False, False, True]


# -- the kernel


def test_the_kernels_messages_about_gpus_and_memory_are_found_with_their_time(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text(
        "6,1,100,-;Linux version 6.8\n"
        f"4,2,5000000,-;{XID}\n SUBSYSTEM=pci\n"
        "no record\n"
        "5,2,5000001,-;nvidia: loading out-of-tree module taints kernel.\n"
        "6,2,5000002,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01\n"
        "6,2,5000003,-;[drm] Initialized nvidia-drm 0.0.0 20160202 for 0000:00:1e.0 on minor 0\n"
        "6,2,5000004,-;nvidia-uvm: Loaded the UVM driver, major device number 241.\n"
        "3,3,6000000,-;Out of memory: Killed process 77 (python3)\n"
    )
    log = KernelLog(tmp_path / "kmsg", booted_at=lambda: 1_700_000_000)
    xid, memory = log.new_messages()
    assert (xid.xid, xid.text) == (79, XID)
    assert xid.record()["t"] == "2023-11-14T22:13:25Z"
    assert memory.xid is None and "xid" not in memory.record()
    assert list(log.new_messages()) == []
    with (tmp_path / "kmsg").open("a") as file:
        file.write(f"4,4,7000000,-;{XID}\n")
    assert [message.xid for message in log.new_messages()] == [79]


def test_a_kernel_log_that_may_not_be_read_has_no_messages(tmp_path: Path) -> None:
    assert list(KernelLog(tmp_path / "none").new_messages()) == []
    assert list(KernelLog(tmp_path).new_messages()) == []  # a folder opens, and cannot be read


# -- the loop


def test_samples_findings_and_kernel_messages_lie_beside_the_trainers_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clock, nvml = Time(), TwoGpus()
    (tmp_path / "metrics.jsonl").write_text('{"event": "metric", "step": 1}\n')
    (tmp_path / "kmsg").write_text(f"4,2,5000000,-;{XID}\n")
    (tmp_path / "phase").write_text("training\n")
    sampler = make_sampler(tmp_path, Gpus(print, nvml.module), clock)
    sampler.begin()
    for load in ([0, 0], [0, 0], [0, 1], [9, 0]):
        nvml.load = load
        sampler.sample()
        if load == [0, 1]:
            assert (tmp_path / "idle").read_text() == "2\n"
        clock.seconds += 60
    assert not (tmp_path / "idle").exists()
    log = sort_records(rows(tmp_path))
    assert [row["step"] for row in log.training] == [1]
    assert [row["event"] for row in log.events] == ["machine", "idle_gpu"]
    assert log.events[0]["nvml"] is None and log.events[0]["gpus"][1]["name"] == "Tesla T4"
    assert [row["gpus"][0]["util_percent"] for row in log.samples] == [0, 0, 0, 9]
    assert {row["phase"] for row in log.samples} == {"training"}
    assert [row["xid"] for row in log.kernel] == [79]
    assert all(time_of(row) for row in (*log.samples, *log.kernel, *log.events))
    assert capfd.readouterr().err.count(f"kernel| 2023-11-14T22:13:25Z {XID}\n") == 1


def test_without_nvml_it_says_so_once_and_samples_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nvml = TwoGpus()
    nvml.module.nvmlInit.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    sampler = make_sampler(tmp_path, Gpus(print, nvml.module), Time())
    sampler.begin()
    sampler.sample()
    sampler.sample()
    assert [row["gpus"] for row in sort_records(rows(tmp_path)).samples] == [[], []]
    assert capfd.readouterr().err.count("no NVML") == 1


def test_a_sample_that_fails_and_a_full_disk_end_nothing_and_are_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nvml, stopped = TwoGpus(), threading.Event()
    nvml.module.nvmlDeviceGetMemoryInfo.side_effect = RuntimeError("odd")
    looks = iter(range(5))
    make_sampler(tmp_path, Gpus(print, nvml.module), Time()).run(
        stopped, lambda: next(looks, None) is not None
    )
    (tmp_path / "metrics.jsonl").mkdir()
    sampler = make_sampler(tmp_path, Gpus(print, TwoGpus().module), Time())
    sampler.sample()
    sampler.sample()
    said = capfd.readouterr().err
    assert said.count("no sample: RuntimeError: odd") == 1
    assert said.count("takes no sample") == 1


# -- the process


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The sampler as bootstrap starts it, with an S3 that takes a call and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        argv = [sys.executable, "-m", "chronos_ec2.instance.sampler", "--output", str(tmp_path)]
        argv += ["--bucket", "a-bucket", "--prefix", "dev/RUN", "--sample-seconds", "0.1"]
        argv += ["--upload-seconds", "0.1", "--kmsg", str(tmp_path / "none")]
        child = subprocess.Popen(
            argv,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(PACKAGES),
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
                "NO_PROXY": "127.0.0.1",
            },
        )
        connection, _ = deaf.accept()  # an upload has begun, and will not end
        yield child
        connection.close()
        child.kill()
        child.communicate()


def test_term_ends_it_at_once_also_in_the_middle_of_an_upload(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    # A time-out of S3's would be 10 s; this machine may be busy.
    assert time.monotonic() - asked < 8
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["event"] == "machine"
    assert sort_records(rows(tmp_path)).samples
