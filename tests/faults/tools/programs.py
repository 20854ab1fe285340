"""The fast `aws` and `python` for PATH, and programs in sessions of their own that can be killed whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_HERE = Path(__file__).parent
_START_SECONDS = 60.0


class Prefork:
    """The prefork server and its two programs, `aws` and `python`, in a folder.

    Args:
        folder: short enough for a Unix socket's path below it.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        socket = folder / "prefork"
        base = getattr(sys, "_base_executable", None) or sys.executable
        text = (_HERE / "prefork_client.py").read_text()
        for name in ("aws", "python"):
            own = text.replace("sys.argv[1]", repr(str(socket))).replace(
                "sys.argv[2:]", f"[{name!r}, *sys.argv[1:]]"
            )
            (self.bin / name).write_text(f"#!{base} -IS\n{own}")
            (self.bin / name).chmod(0o755)
        self._log = (folder / "prefork.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "prefork_server.py"), str(socket)],
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        end = time.monotonic() + _START_SECONDS
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "prefork.log").read_text())
            time.sleep(0.02)

    def close(self) -> None:
        """Stop the server."""
        self._process.kill()
        self._process.wait()
        self._log.close()


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

    def wait(self, seconds: float = 120.0) -> Ended:
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
