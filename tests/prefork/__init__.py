"""The AWS CLI and Python without their start-up time, forked from a process that has loaded them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).parent
_START_SECONDS = 60.0


class Prefork:
    """The server and its two programs, `aws` and `python`, in a folder.

    Args:
        folder: short enough for a Unix socket's path below it.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        socket = folder / "prefork"
        base = getattr(sys, "_base_executable", None) or sys.executable
        text = (_HERE / "client.py").read_text()
        for name in ("aws", "python"):
            own = text.replace("sys.argv[1]", repr(str(socket))).replace(
                "sys.argv[2:]", f"[{name!r}, *sys.argv[1:]]"
            )
            (self.bin / name).write_text(f"#!{base} -IS\n{own}")
            (self.bin / name).chmod(0o755)
        self._log = (folder / "prefork.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "server.py"), str(socket)],
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
