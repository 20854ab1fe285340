"""The sampler's loop: measure, write down, look for idle GPUs; the upload goes on beside it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.instance.sampler.gpus import Gpus
from chronos_ec2.instance.sampler.idleness import Idleness
from chronos_ec2.instance.sampler.kernel_log import KernelLog
from chronos_ec2.instance.sampler.machine import Machine
from chronos_ec2.instance.sampler.parts import PartsUpload
from chronos_ec2.instance.storage import make_client
from chronos_ec2.metrics_log import WHOLE, Record
from chronos_ec2.state.clock import to_text, utc_now


def say(text: str) -> None:
    """One line of talk on stderr; a closed stderr is no reason to stop."""
    with contextlib.suppress(OSError):
        os.write(2, f"sampler: {text}\n".encode(errors="replace"))


def say_kernel(text: str) -> None:
    """A kernel's message, marked as logs mark it."""
    with contextlib.suppress(OSError):
        os.write(2, f"kernel| {text}\n".encode(errors="replace"))


class Sampler:
    """One machine's samples, appended to one file.

    Args:
        file: metrics.jsonl; others append to it as well.
        phase_file: holds the phase that the run is in.
        idle_file: gets the minutes while GPUs are idle for too long.
        now: the wall clock, for the records.
    """

    def __init__(
        self,
        file: Path,
        *,
        machine: Machine,
        gpus: Gpus,
        kernel: KernelLog,
        idleness: Idleness,
        phase_file: Path | None = None,
        idle_file: Path | None = None,
        sample_seconds: float = 5,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._file = file
        self._machine, self._gpus, self._kernel, self._idleness = machine, gpus, kernel, idleness
        self._phase_file, self._idle_file = phase_file, idle_file
        self._sample_seconds = sample_seconds
        self._now = now
        self._told: set[str] = set()

    def begin(self) -> None:
        """Write down what the machine is."""
        if self._gpus.problem is not None:
            say(f"no NVML ({self._gpus.problem}): samples tell of processor, memory, disk and network alone")
        facts = {**self._machine.describe(), "sample_seconds": self._sample_seconds}
        self._append([self._own("machine", **facts, gpus=self._gpus.describe(), nvml=self._gpus.problem)])

    def sample(self) -> None:
        """Measure once, and write down what was found."""
        phase, gpus = self._phase(), self._gpus.sample()
        rows = [{**self._own(None), "phase": phase, **self._machine.sample(), "gpus": gpus}]
        for message in self._kernel.new_messages():
            say_kernel(f"{to_text(message.at)} {message.text}")
            rows.append(message.record())
        minutes = self._idleness.observe(phase, gpus)
        if minutes is not None:
            rows.append(self._own("idle_gpu", minutes=round(minutes, 1)))
            self._note_idle(f"{minutes:.0f}\n")
        elif not self._idleness.told:
            self._note_idle(None)
        self._append(rows)

    def run(self, stopped: threading.Event, alive: Callable[[], bool]) -> None:
        """Sample until told to stop; a sample that fails is said once, and left out."""
        while alive():
            try:
                self.sample()
            except Exception as error:  # the run is worth more than its samples
                self._trouble(f"no sample: {type(error).__name__}: {error}")
            if stopped.wait(self._sample_seconds):
                return

    def _own(self, event: str | None, **fields: Any) -> Record:
        record: Record = {"t": to_text(self._now()), "source": "sampler"}
        return {**record, **({} if event is None else {"event": event}), **fields}

    def _phase(self) -> str | None:
        try:
            return self._phase_file.read_text().strip() or None if self._phase_file else None
        except OSError:
            return None

    def _note_idle(self, text: str | None) -> None:
        if self._idle_file is None:
            return
        if text is None:
            self._idle_file.unlink(missing_ok=True)
        else:
            self._idle_file.write_text(text)

    def _append(self, rows: Iterable[Record]) -> None:
        """One write, so that lines of several writers do not mix."""
        data = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._trouble(f"{self._file} takes no sample: {error}")

    def _trouble(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            say(text)


def send_parts(upload: PartsUpload, stopped: threading.Event, seconds: float) -> None:
    """Send what is new every so often; S3's troubles are told when they begin and when they end."""
    failures = 0
    while not stopped.wait(seconds):
        try:
            upload.send_new()
        except (ClientError, BotoCoreError, OSError) as error:
            failures += 1
            if failures == 1:
                say(f"metrics were not sent, trying again every {seconds:g} s: {error}")
        else:
            if failures:
                say(f"metrics are sent again, after {failures} failures")
            failures = 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sampler")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True, metavar="ENV/RUN_ID/")
    parser.add_argument("--sample-seconds", type=float, default=5.0, metavar="N")
    parser.add_argument("--upload-seconds", type=float, default=15.0, metavar="N")
    parser.add_argument("--phase-file", type=Path, metavar="FILE")
    parser.add_argument("--idle-file", type=Path, metavar="FILE")
    parser.add_argument("--idle-minutes", type=float, default=0.0, metavar="N")
    parser.add_argument("--kmsg", type=Path, default=Path("/dev/kmsg"), metavar="DEVICE")
    given = parser.parse_args(argv)
    if given.sample_seconds <= 0 or given.upload_seconds <= 0 or given.idle_minutes < 0:
        parser.error("seconds and minutes: expected more than 0")
    if not given.output.is_dir():
        parser.error(f"--output: {given.output} is not a folder")
    given.prefix = given.prefix.strip("/") + "/"
    return given


def main(argv: Sequence[str]) -> int:
    """Sample as `argv` says until TERM comes, and return the exit status."""
    given = _parse(argv)
    stopped = threading.Event()

    def stop(_signum: int, _frame: FrameType | None) -> None:
        stopped.set()

    for caught in (signal.SIGTERM, signal.SIGINT):
        signal.signal(caught, stop)
    try:
        import psutil
    except ImportError as error:
        say(f"no samples: the training environment lacks psutil ({error}); invoke build-env packs it")
        return 1
    parent, file = os.getppid(), given.output / WHOLE
    sampler = Sampler(
        file,
        machine=Machine(given.output, psutil),
        gpus=Gpus(say),
        kernel=KernelLog(given.kmsg),
        idleness=Idleness(given.idle_minutes, time.monotonic),
        phase_file=given.phase_file,
        idle_file=given.idle_file,
        sample_seconds=given.sample_seconds,
    )
    upload = PartsUpload(make_client(impatient=True), given.bucket, given.prefix, file)
    # A daemon: a call that S3 does not answer must not keep the ending waiting.
    threading.Thread(target=send_parts, args=(upload, stopped, given.upload_seconds), daemon=True).start()
    sampler.begin()
    sampler.run(stopped, lambda: os.getppid() == parent)
    return 0
