"""Run a helper program for at most so many seconds, whatever it does. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass

_REAP_SECONDS = 2.0


@dataclass(frozen=True)
class Finished:
    """How a helper ended: its exit status (negative for a signal), or that its time ran out."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


def run_bounded(argv: list[str], timeout_seconds: float, cwd: str | None = None) -> Finished:
    """Run `argv` and take its output; kill its whole process group when the time is up.

    A process that a driver holds in the kernel survives even SIGKILL; it is left behind then, because the
    report matters more.

    Raises:
        OSError: the program is not there or cannot be run.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=cwd,
    )
    timed_out = False
    out = err = b""
    try:
        out, err = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=_REAP_SECONDS)
    returncode = process.returncode if process.returncode is not None else -signal.SIGKILL
    return Finished(returncode, out.decode(errors="replace"), err.decode(errors="replace"), timed_out)
