"""The faults of the matrix, each with what may become of the run, by the phase that it strikes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from chronos_ec2.local_cloud.interruptions import PATH as INTERRUPT
from chronos_ec2.workstation.watch_screen import PHASES
from outside_looks import until
from tools.doomed import s3_is_gone
from tools.fault_proxy import Match, Request
from tools.guest_processes import Find, boot_scripts, bootstrap, companions, running, user_data, wrapper
from tools.lab import ENVIRONMENT
from tools.matrix import Cell, Fault, always, entering, only
from tools.shortage import MEMORY, PROCESSES, short_of

LATE_SECONDS: Final = 5.0
THROTTLED_SHARE: Final = 0.3
LOST_SHARE: Final = 0.25
DISK_MEGABYTES: Final = 64
HOUR: Final = timedelta(hours=1)
SKEW_ALLOWED: Final = timedelta(minutes=15)
"""S3's: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, RequestTimeTooSkewed."""
_ARCHIVE: Final = "cached-datasets/python-env/chronos-venv-faults.tar.gz"
_SCRIPT: Final = "cached-datasets/scripts/lib/phases.sh"
_DATA: Final = "cached-datasets/training-data/series.parquet"
_MANIFEST: Final = "cached-datasets/training-data/MANIFEST.json"
_BROKEN_SHUTDOWN: Final = '#!/bin/sh\n[ "$2" != now ]\n'
_REAL_AWS: Final = '#!/bin/sh\nexec {python} -I -m awscli "$@"\n'


# -- AWS that does not answer as it should ----------------------------------------------------------


def s3_down(seconds: float) -> Callable[[Cell], None]:
    """S3 answers 503 for so long, or until the machine has gone."""

    def strike(cell: Cell) -> None:
        end = time.monotonic() + seconds
        cell.proxy.fault = lambda request: s3_is_gone(request) if time.monotonic() < end else None

    return strike


def throttled(cell: Cell) -> None:
    """A share of all calls is told to slow down, to the end of the run."""
    cell.proxy.fault = lambda _request: "503" if cell.chance.random() < THROTTLED_SHARE else None


def late(cell: Cell) -> None:
    """Every answer comes late, to the end of the run."""
    cell.proxy.slow_seconds = LATE_SECONDS
    cell.proxy.fault = lambda _request: "slow"


def answers_lost(cell: Cell) -> None:
    """A share of the calls takes effect and is never answered."""
    cell.proxy.fault = lambda _request: "lost" if cell.chance.random() < LOST_SHARE else None


def no_terminate(cell: Cell) -> None:
    """EC2 refuses TerminateInstances."""
    cell.proxy.fault = lambda request: "412" if str(request.operation) == "TerminateInstances" else None


def credentials_expired(cell: Cell) -> None:
    """What is signed with a key issued until now is refused; the metadata service has fresh ones."""
    old = {key for request in cell.proxy.seen if (key := _access_key(request))}
    cell.switch("credentials-renewed")
    cell.proxy.fault = lambda request: "expired" if _access_key(request) in old else None


def _access_key(request: Request) -> str | None:
    match = re.search(r"Credential=([A-Z0-9]+)/", request.headers.get("authorization", ""))
    return match[1] if match else None


# -- the machine ------------------------------------------------------------------------------------


def with_skew_refused(cell: Cell) -> None:
    """The guest's programs see a clock that can be moved, and AWS refuses what is signed at another time."""
    library = find_spec("libfaketime")
    assert library is not None and library.origin is not None
    (found,) = Path(library.origin).parent.rglob("libfaketime.so.1")
    cell.switch("guest-clock", str(found))
    _give_programs(cell, aws=_REAL_AWS.format(python=sys.executable))  # a fork of a server has its clock
    cell.proxy.fault = _skew_refused


def _skew_refused(request: Request) -> str | None:
    signed = request.headers.get("x-amz-date")
    if signed is None:
        return None
    at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return "skewed" if abs(datetime.now(UTC) - at) > SKEW_ALLOWED else None


def clock_jumps(span: timedelta) -> Callable[[Cell], None]:
    """The guest's clock is set."""

    def strike(cell: Cell) -> None:
        seconds = int(span.total_seconds())
        (cell.disk / "run" / "clock").write_text(f"{seconds:+d}s\n")
        (cell.disk / "run" / "clock-offset").write_text(str(seconds))

    return strike


def on_a_small_disk(cell: Cell) -> None:
    """The guest's disk is a file system of its own."""
    cell.switch("guest-disk-megabytes", str(DISK_MEGABYTES))


def disk_full(cell: Cell) -> None:
    """Not a byte more."""
    with suppress(OSError), (cell.disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def metadata_gone(cell: Cell) -> None:
    """The metadata service cuts every connection."""
    cell.switch("metadata-gone")


def gpu_gone(cell: Cell) -> None:
    """Told to stand-ins, as there is no GPU here: the preflight of the matrix finds none from now on, and its
    trainer ends as one does whose next call of CUDA fails. What is shown is what becomes of the run then.
    """
    (cell.disk / "run" / "gpu-gone").touch()


def rebooted(cell: Cell) -> None:
    """As when the hardware below fails: user data does not run again, and nothing carries the run on."""
    cell.lab.aws.ec2.reboot_instances(InstanceIds=[cell.instance_id])


def taken_back(cell: Cell) -> None:
    """EC2 gives notice."""
    body = json.dumps({"instance_id": cell.instance_id, "notice_seconds": 60}).encode()
    with urllib.request.urlopen(urllib.request.Request(cell.lab.url + INTERRUPT, body), timeout=10) as answer:
        assert answer.status == 200


def without_power_off(cell: Cell) -> None:
    """The guest's `shutdown` takes what it is told for later, and powers nothing off."""
    _give_programs(cell, shutdown=_BROKEN_SHUTDOWN)


def _give_programs(cell: Cell, **texts: str) -> None:
    folder = cell.lab.folder / "matrix-programs"
    folder.mkdir()
    cell.undone.callback(shutil.rmtree, folder)
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    cell.switch("guest-programs", str(folder))


def without_schedule(cell: Cell) -> None:
    """Somebody has deleted the run's schedule."""
    cell.lab.forget_schedules()


def both(*strikes: Callable[[Cell], None]) -> Callable[[Cell], None]:
    """One after the other, at once."""

    def strike(cell: Cell) -> None:
        for one in strikes:
            one(cell)

    return strike


def nothing(_cell: Cell) -> None:
    """What was prepared is the fault."""


# -- a process ---------------------------------------------------------------------------------------


def killed(find: Find) -> Callable[[Cell], None]:
    """SIGKILL to every process that is found; there has to be one, soon."""

    def strike(cell: Cell) -> None:
        for pid in until(lambda: find(cell.disk), f"{find} finds no process", 20, every=0.02):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return strike


def killed_in_preflight(cell: Cell) -> None:
    """The preflight is held until it is killed."""
    (cell.disk / "run" / "preflight-held").touch()
    cell.go_on()
    killed(running("/preflight_check.py"))(cell)


def with_own_python(cell: Cell) -> None:
    """The guest's Python works in its own process, and not in a fork of a server that it stands for."""
    _give_programs(cell, **{"own-python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'})


def uploading_results(_phase: str) -> Match:
    """The results' first file is on its way."""
    return lambda request: request.method == "PUT" and "/models/" in request.target


def fetching(part: str) -> Callable[[str], Match]:
    """An object is on its way to the guest."""
    return lambda _phase: lambda request: request.method == "GET" and part in request.target


def syncing(_phase: str) -> Match:
    """The checked sync of the data asks for the manifest, as the fetch before it did by s5cmd."""
    return lambda request: _MANIFEST in request.target and "Boto3" in request.headers.get("user-agent", "")


def fetching_scripts(_phase: str) -> Match:
    """The guest's first request."""
    return lambda request: request.number == 1


def booting(phase: str) -> Match:
    """The guest's first request, for what initialization has done before it moves the state."""
    return fetching_scripts(phase) if phase == "initialization" else entering(phase)


# -- what may become of a run -------------------------------------------------------------------------

_UNHEARD: Final = always("lost")
"""Nothing that it does reaches S3 any more."""
FAULTS: Final = (
    Fault("S3 down for 10 s", s3_down(10), always("succeeded")),
    Fault("S3 down for 60 s", s3_down(60), always("succeeded")),  # a real minute
    Fault("S3 down for 600 s", s3_down(600), _UNHEARD),
    Fault("30 % of calls throttled", throttled, always("succeeded")),
    Fault("5 s latency", late, always("succeeded")),
    Fault("25 % of answers lost", answers_lost, always("succeeded")),
    Fault("credentials expired", credentials_expired, always("succeeded")),
    Fault("clock +1 h", clock_jumps(HOUR), _UNHEARD, prepare=with_skew_refused),
    Fault("clock -1 h", clock_jumps(-HOUR), _UNHEARD, prepare=with_skew_refused),
    Fault(
        "disk full",
        disk_full,
        # What is uploaded then is on the disk already.
        always("failed", "lost", results_sync=("failed", "succeeded"), cleanup=("failed", "succeeded")),
        prepare=on_a_small_disk,
    ),
    Fault("metadata service gone", metadata_gone, _UNHEARD),
    Fault("GPU gone", gpu_gone, always("failed", results_sync="succeeded", cleanup="succeeded")),
    Fault(
        "out of memory: trainer",
        short_of(MEMORY, running("-c")),
        only(training="failed"),
        says="memory ran out",
    ),
    Fault(
        "out of memory: upload of checkpoints",
        short_of(MEMORY, running("chronos_ec2.instance.checkpoint_sync")),
        only(training="succeeded"),
        prepare=with_own_python,
    ),
    Fault(
        "out of memory: upload of results",
        short_of(MEMORY, running("chronos_ec2.instance.results_sync")),
        only(results_sync="failed"),
        prepare=with_own_python,
    ),
    Fault("out of memory: bootstrap", short_of(MEMORY, bootstrap), _UNHEARD),
    Fault(
        "no further process: bootstrap and user data",
        short_of(PROCESSES, boot_scripts),
        _UNHEARD,
        by_itself=False,  # the user data comes to `shutdown`, but that of the embedded AWS is a script
    ),
    Fault("killed: trainer", killed(running("-c")), only(training="failed")),
    Fault("killed: wrapper", killed(wrapper), only(training="failed")),
    Fault(
        "killed: upload of checkpoints",
        killed(running("chronos_ec2.instance.checkpoint_sync")),
        only(training="succeeded"),
    ),
    Fault(
        "killed: upload of results",
        killed(running("chronos_ec2.instance.results_sync")),
        only(results_sync="failed"),
        moment=uploading_results,
    ),
    Fault("killed: log writer", killed(running("tee")), always("succeeded")),
    Fault(
        "killed: sampler",
        killed(running("chronos_ec2.instance.sampler")),
        only(gpu_preflight="succeeded", data_sync="succeeded", training="succeeded"),
    ),
    Fault(
        "killed: fetch of the environment",
        killed(running("s5cmd")),  # then `aws s3 cp` does it
        only(venv_download="succeeded"),
        moment=fetching(_ARCHIVE),
    ),
    Fault(
        "killed: preflight",
        killed_in_preflight,
        only(gpu_preflight="failed"),
        moment=lambda _phase: entering("venv_download"),  # it begins at the end of that
    ),
    Fault(
        "killed: sync of the data",
        killed(running("chronos_ec2.instance.data_sync")),
        only(data_sync="succeeded"),
        moment=syncing,
    ),
    Fault("killed: guest's switch", killed(running("/00-chronos-switch")), always("succeeded")),
    Fault("killed: user data", killed(user_data), always("succeeded")),
    Fault("killed: companions", killed(companions), always("succeeded")),
    Fault("killed: bootstrap", killed(bootstrap), _UNHEARD),
    Fault("killed: bootstrap and user data", killed(boot_scripts), _UNHEARD, by_itself=False),
    # It has seconds until it goes down: enough for the record, where that is all that is left to do.
    Fault("rebooted", rebooted, always("lost", cleanup=("lost", "succeeded")), by_itself=False),
    Fault(
        "spot interruption",
        taken_back,
        # A notice leaves time for results that are on their way.
        always("interrupted", results_sync=("interrupted", "succeeded"), cleanup="succeeded"),
        flags=("--spot",),
    ),
    Fault(
        "environment altered",
        lambda cell: cell.spoil(_ARCHIVE),
        # It begins to come before the state is moved for the first time.
        always(
            "succeeded",
            initialization="failed",
            **dict.fromkeys(("system_setup", "venv_download"), ("failed", "succeeded")),
        ),
        moment=booting,
    ),
    Fault(
        "script altered",
        lambda cell: cell.spoil(_SCRIPT),
        only(initialization="lost"),
        moment=fetching_scripts,
        on_console="did NOT match",
    ),
    Fault("script altered after its fetch", lambda cell: cell.spoil(_SCRIPT), always("succeeded")),
    Fault(
        "training data altered",
        lambda cell: cell.spoil(_DATA),
        always("succeeded", **dict.fromkeys(PHASES[:4], ("failed", "succeeded"))),
    ),
    Fault(
        "config altered",
        lambda cell: cell.spoil(f"{ENVIRONMENT}/{cell.run_id}/config.yaml"),
        # It begins to come with the environment, and is waited for in data_sync.
        always("succeeded", initialization="failed", **dict.fromkeys(PHASES[1:5], ("failed", "succeeded"))),
        moment=booting,
    ),
    Fault("TerminateInstances refused", no_terminate, always("succeeded")),
    Fault(
        "TerminateInstances refused, power-off fails",
        no_terminate,
        always("succeeded"),
        prepare=without_power_off,
        by_itself=False,
    ),
    Fault("power-off fails", nothing, always("succeeded"), prepare=without_power_off),
    Fault(
        "power-off fails, bootstrap killed",
        killed(bootstrap),
        _UNHEARD,
        prepare=without_power_off,
        by_itself=False,
    ),
    Fault("schedule missing", without_schedule, always("succeeded")),
    Fault(
        "schedule missing, bootstrap and user data killed",
        both(without_schedule, killed(boot_scripts)),
        _UNHEARD,
        by_itself=False,
    ),
)
