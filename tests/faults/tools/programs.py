"""Programs in sessions of their own that can be killed whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: exit status (negative: a signal), and what it printed."""

    status: int
    stdout: str
    stderr: str


class Running:
    """A program in a session of its own, its output in files."""

    def __init__(self, argv: list[str], env: Mapping[str, str], cwd: Path) -> None:
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._ended: Ended | None = None
        out, err = self._files
        self._process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, seconds: float = 300.0) -> Ended:
        """Wait for its end; past the time it is killed, and the status is that of the kill."""
        if self._ended is not None:
            return self._ended
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        self._ended = Ended(status, *texts)
        return self._ended
