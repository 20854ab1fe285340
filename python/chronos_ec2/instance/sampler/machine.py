"""Processor, memory, disk and network by psutil."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from chronos_ec2.metrics_log import Record

_COUNTERS: Final = ("disk_read", "disk_write", "network_in", "network_out")


class Machine:
    """The machine apart from its GPUs.

    Args:
        folder: a folder on the volume that holds data and results.
        psutil: the module.
        monotonic: seconds, for rates.
    """

    def __init__(self, folder: Path, psutil: Any, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = str(folder)
        self._psutil = psutil
        self._monotonic = monotonic
        psutil.cpu_percent()  # the first answer is for the time since this call
        self._before = monotonic(), self._counters()

    def describe(self) -> Record:
        """What does not change while the run lasts."""
        return {
            "cpus": self._psutil.cpu_count() or 1,
            "memory_total_bytes": self._psutil.virtual_memory().total,
            "disk_total_bytes": self._psutil.disk_usage(self._folder).total,
        }

    def sample(self) -> Record:
        """What the machine does now; rates are over the time since the last call (docs/metrics.md)."""
        memory = self._psutil.virtual_memory()
        disk = self._psutil.disk_usage(self._folder)
        return {
            "cpu_percent": self._psutil.cpu_percent(),
            "memory_bytes": memory.total - memory.available,
            "memory_total_bytes": memory.total,
            "disk_bytes": disk.used,
            "disk_total_bytes": disk.total,
            **self._rates(),
        }

    def _rates(self) -> Record:
        then, before = self._before
        now, counters = self._monotonic(), self._counters()
        self._before = now, counters
        seconds = now - then
        rates: Record = {}
        for name in _COUNTERS:
            moved = counters[name] - before[name]
            # A counter that went back belongs to a device that has come or gone.
            known = seconds > 0 and moved >= 0
            rates[f"{name}_bytes_per_second"] = round(moved / seconds) if known else None
        return rates

    def _counters(self) -> Mapping[str, int]:
        disk = self._psutil.disk_io_counters()
        links = self._psutil.net_io_counters(pernic=True)
        outside = [link for name, link in links.items() if name != "lo"]
        return {
            "disk_read": disk.read_bytes if disk else 0,
            "disk_write": disk.write_bytes if disk else 0,
            "network_in": sum(link.bytes_recv for link in outside),
            "network_out": sum(link.bytes_sent for link in outside),
        }
