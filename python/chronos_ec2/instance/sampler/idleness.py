"""GPUs that are paid for and do nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from chronos_ec2.metrics_log import Record

IDLE_PERCENT: Final = 2
"""A GPU under this works at nothing: a driver's own housekeeping shows as 1 %."""


class Idleness:
    """Looks at samples for minutes of training in which no GPU did anything.

    Args:
        minutes: how long is too long; 0 looks for nothing.
        monotonic: seconds: a clock that jumps is no idleness.
    """

    def __init__(self, minutes: float, monotonic: Callable[[], float]) -> None:
        self._minutes = minutes
        self._monotonic = monotonic
        self._since: float | None = None
        self.told = False

    def observe(self, phase: str | None, gpus: Sequence[Record]) -> float | None:
        """Take a sample.

        Returns:
            The minutes, when they have become too many; each stretch is told once.
        """
        loads = [gpu["util_percent"] for gpu in gpus]
        idle = (
            phase == "training" and loads and all(load is not None and load < IDLE_PERCENT for load in loads)
        )
        if not idle:
            self._since, self.told = None, False
            return None
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        minutes = (now - self._since) / 60
        if self._minutes == 0 or self.told or minutes < self._minutes:
            return None
        self.told = True
        return minutes
