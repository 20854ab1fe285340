"""The kernel's messages that explain a dead training: the GPU driver's, and processes killed for memory.

The format of /dev/kmsg is the kernel's (Documentation/ABI/testing/dev-kmsg), a record a read:
`level,number,microseconds since the start,flags;text`.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from chronos_ec2.metrics_log import Record
from chronos_ec2.state.clock import to_text

_TELLING: Final = re.compile(
    r"NVRM: .*(Xid|GPU|fail|error|fallen|unable)|nvidia.*(fail|error|unable)"
    r"|Out of memory|oom-kill|oom_reaper",
    re.IGNORECASE,
)
"""A driver that loads says a dozen harmless things with the same words before them."""
_XID: Final = re.compile(r"NVRM: Xid \([^)]*\): (\d+)")
_RECORD_BYTES: Final = 8192


def boot_time() -> float:
    """When this machine started, in seconds of the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class KernelMessage:
    """One message; `xid` is the number of an Xid error."""

    at: datetime
    text: str
    xid: int | None

    def record(self) -> Record:
        """The message as docs/metrics.md has it."""
        known = {} if self.xid is None else {"xid": self.xid}
        return {"t": to_text(self.at), "source": "kernel", "message": self.text, **known}


class KernelLog:
    """Reads the kernel's ring buffer from its beginning on, without waiting for what is not there yet.

    Args:
        device: /dev/kmsg; a machine that has none, or lets only others read it, has no messages.
        booted_at: seconds of the epoch to which the records' times are added.
    """

    def __init__(self, device: Path, booted_at: Callable[[], float] = boot_time) -> None:
        self._booted_at = booted_at
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def new_messages(self) -> Iterator[KernelMessage]:
        """What has come since the last call and is worth telling."""
        for text in self._records():
            for line in text.splitlines():
                message = self._parse(line)
                if message is not None:
                    yield message

    def _records(self) -> Iterator[str]:
        while self._descriptor is not None:
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # old records were overwritten meanwhile: the next read gives the oldest left
            except OSError:
                os.close(self._descriptor)
                self._descriptor = None
                return
            if not record:
                return
            yield record.decode(errors="replace")

    def _parse(self, line: str) -> KernelMessage | None:
        head, separator, text = line.partition(";")
        fields = head.split(",")
        if not separator or len(fields) < 3 or not fields[2].isdigit() or not _TELLING.search(text):
            return None
        at = datetime.fromtimestamp(self._booted_at() + int(fields[2]) / 1e6, UTC)
        xid = _XID.search(text)
        return KernelMessage(at, text.strip(), int(xid[1]) if xid else None)
