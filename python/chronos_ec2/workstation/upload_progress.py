"""How far an upload is: a bar on a terminal, lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, Protocol, TextIO

from chronos_ec2.words import size_text

LINE_SECONDS: Final = 10.0


class Progress(Protocol):
    """Hears how an upload goes on, from several threads."""

    def of(self, files: int, size: int) -> Any:
        """A context in which so many files of so many bytes are sent."""

    def advance(self, size: int) -> None:
        """So many more bytes are in the bucket."""

    def end_file(self, name: str) -> None:
        """A file is there whole."""


class Silent:
    """Says nothing."""

    @contextmanager
    def of(self, files: int, size: int) -> Iterator[None]:
        """Nothing is said."""
        yield

    def advance(self, size: int) -> None:
        """Nothing is said."""

    def end_file(self, name: str) -> None:
        """Nothing is said."""


class Lines:
    """A line at most every ten seconds, for logs and pipes; nothing of an upload that is over before that."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock, self._lock = out, clock, Lock()

    @contextmanager
    def of(self, files: int, size: int) -> Iterator[None]:
        """Count from nothing."""
        self._files, self._size, self._done, self._sent = files, size, 0, 0
        self._began = self._said = self._clock()
        yield

    def advance(self, size: int) -> None:
        """Count, and say it when it is time."""
        with self._lock:
            self._sent += size
            now = self._clock()
            if now - self._said < LINE_SECONDS or self._sent >= self._size:
                return
            self._said = now
            rate = self._sent / max(now - self._began, 1e-3)
            left = (self._size - self._sent) / max(rate, 1.0)
            self._out.write(
                f"{size_text(self._sent)} of {size_text(self._size)}, {self._done} of {self._files} files, "
                f"{size_text(int(rate))}/s, {left:.0f} s left\n"
            )
            self._out.flush()

    def end_file(self, name: str) -> None:
        """Count it."""
        with self._lock:
            self._done += 1


class Bar:
    """One line of a terminal, drawn by rich: bytes, rate, time left and files. Keeps to NO_COLOR."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(
            *columns,
            TimeRemainingColumn(),
            TextColumn("{task.fields[done]}/{task.fields[files]} files"),
            console=Console(file=out),
            transient=True,
        )
        self._lock = Lock()

    @contextmanager
    def of(self, files: int, size: int) -> Iterator[None]:
        """Show the bar; none when there is nothing to send."""
        if not files:
            yield
            return
        self._task = self._bar.add_task("sending", total=size, done=0, files=files)
        self._done = 0
        with self._bar:
            yield
        self._bar.remove_task(self._task)

    def advance(self, size: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, size)

    def end_file(self, name: str) -> None:
        """Count the file."""
        with self._lock:
            self._done += 1
        self._bar.update(self._task, done=self._done)


def upload_progress(out: TextIO) -> Progress:
    """A bar on a terminal, lines elsewhere."""
    return Bar(out) if out.isatty() else Lines(out)
