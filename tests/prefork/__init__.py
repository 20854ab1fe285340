"""The AWS CLI and Python without their start-up time, forked from a process that has loaded them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from chronos_ec2.workstation import prefork_server

_START_SECONDS = 60.0


class Prefork:
    """The server and its two programs, `bin/aws` and `python`, in a folder.

    Args:
        folder: short enough for a Unix socket's path below it.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        socket = folder / "prefork"
        base = getattr(sys, "_base_executable", None) or sys.executable
        client = find_spec("chronos_ec2.workstation.prefork_client")  # a program: importing it would run it
        assert client is not None and client.origin is not None
        text = Path(client.origin).read_text()
        # Apart: a launch script that found both in one folder would start a server of its own.
        self.python = folder / "python"
        for made in (self.bin / "aws", self.python):
            words = [str(socket), str(Path(sys.executable).with_name(made.name)), made.name]
            own = text.replace("import sys\n", f"import sys\n\nsys.argv[1:1] = {words!r}\n")
            made.write_text(f"#!{base} -IS\n{own}")
            made.chmod(0o755)
        self._log = (folder / "prefork.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", prefork_server.__name__, str(socket)],
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
