"""The training command as a process: started in a group of its own, read line by line, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

from chronos_ec2.instance.line_splitter import LineSplitter
from chronos_ec2.instance.process_tree import WRAPPER_PID, adopt_orphans, descendants, die_with_parent

_CHUNK_BYTES: Final = 64 * 1024
_DRAIN_SECONDS: Final = 2.0
_SWEEP_SECONDS: Final = 5.0

TakeLines = Callable[[str, list[str]], None]


class TrainingProcess:
    """One training command.

    Args:
        argv, env: what to run, and its whole environment.
        grace_seconds: how long the command may take to end after it was asked to.
        take_lines: gets "stdout" or "stderr" and the lines that came; called from two threads.
        log: takes one line of talk.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        grace_seconds: float,
        take_lines: TakeLines,
        log: Callable[[str], None],
    ) -> None:
        self._argv = list(argv)
        self._env = dict(env)
        self._grace = grace_seconds
        self._take_lines = take_lines
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        # a signal handler may interrupt a stop() in its own thread
        self._lock = threading.RLock()
        self._killer: threading.Timer | None = None
        self._over = False

    def start(self) -> int:
        """Start the command; its pid is also its process group.

        Raises:
            OSError: it is not there or cannot be run.
        """
        adopt_orphans()
        self._process = subprocess.Popen(
            self._argv,
            env={**self._env, WRAPPER_PID: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=die_with_parent,
        )
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe is not None
            reader = threading.Thread(target=self._read, args=(name, pipe), name=name, daemon=True)
            reader.start()
            self._readers.append(reader)
        return self._process.pid

    def stop(self, signum: int, *, now: bool = False) -> None:
        """Pass a signal on to the whole group and arm the SIGKILL; with `now`, send SIGKILL at once.

        Safe from any thread and from a signal handler, before the start and after the end.
        """
        with self._lock:
            if self._process is None or self._over:
                return
            if now:
                self._signal_group(signal.SIGKILL)
                return
            self._signal_group(signum)
            if self._killer is None:
                self._killer = threading.Timer(self._grace, self._kill_late)
                self._killer.daemon = True
                self._killer.start()

    def wait(self) -> int:
        """Wait for the command's end, read what is left of its output, and end whatever it left running.

        Returns:
            Its exit status, negative for a signal.
        """
        assert self._process is not None
        # Not collected yet: until it is, its pid, which is the group's as well, cannot become another's.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            if self._killer is not None:
                self._killer.cancel()
        self._join_readers(_DRAIN_SECONDS)
        with self._lock:
            self._signal_group(signal.SIGKILL)
            self._over = True
            returncode = self._process.wait()
        end_descendants(self._log)
        self._join_readers(_DRAIN_SECONDS)
        return returncode

    def _kill_late(self) -> None:
        with self._lock:
            if self._over:
                return
            self._log(f"the training command did not end within {self._grace:g} s: SIGKILL")
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, signum: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signum)

    def _join_readers(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        splitter = LineSplitter()
        with pipe:
            while chunk := os.read(pipe.fileno(), _CHUNK_BYTES):
                self._deliver(name, splitter.feed(chunk))
        self._deliver(name, splitter.finish())

    def _deliver(self, name: str, lines: list[str]) -> None:
        if not lines:
            return
        try:
            self._take_lines(name, lines)
        except Exception as error:
            # the pipe must be read on, or the training blocks on it
            self._log(f"{len(lines)} lines of {name} were lost: {type(error).__name__}: {error}")


def end_descendants(log: Callable[[str], None]) -> None:
    """Kill and reap every process below this one; the wrapper has no other children than the training's."""
    deadline = time.monotonic() + _SWEEP_SECONDS
    while left := descendants(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            log(f"processes that the training left do not end: {left}")
            return
        time.sleep(0.01)
