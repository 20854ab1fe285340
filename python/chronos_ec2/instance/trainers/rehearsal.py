"""Failures on request, so that every way a training run can end can be rehearsed on a real one.

Also the request to stop: SIGTERM and SIGINT set a flag that the training loop looks at between steps.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final

from chronos_ec2.errors import ChronosError

CRASH_STATUS: Final = 70
_SLICE_SECONDS: Final = 0.05


class FailedOnRequest(ChronosError):
    """`--fail-at-step` came to its step."""


class StopRequest:
    """Whether somebody asked the process to stop."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Let SIGTERM and SIGINT ask for a stop instead of ending the process on the spot."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What shall go wrong, and when. Steps count from 1; what is set happens before that step is taken."""

    fail_at_step: int | None = None
    crash_at_step: int | None = None
    hang_at_step: int | None = None
    nan_at_step: int | None = None
    step_seconds: float = 0.0

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags to a command line."""
        group = parser.add_argument_group("rehearsing failures")
        group.add_argument("--fail-at-step", type=int, metavar="N", help="exit 3 before step N")
        group.add_argument(
            "--crash-at-step", type=int, metavar="N", help=f"vanish before step N, status {CRASH_STATUS}"
        )
        group.add_argument(
            "--hang-at-step", type=int, metavar="N", help="hang before step N; TERM still works"
        )
        group.add_argument("--nan-at-step", type=int, metavar="N", help="spoil the weights before step N")
        group.add_argument(
            "--step-seconds", type=float, default=0.0, metavar="X", help="wait X seconds before every step"
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Rehearsal:
        """Read the flags that `add_arguments` added."""
        return cls(
            fail_at_step=arguments.fail_at_step,
            crash_at_step=arguments.crash_at_step,
            hang_at_step=arguments.hang_at_step,
            nan_at_step=arguments.nan_at_step,
            step_seconds=arguments.step_seconds,
        )

    def before_step(self, step: int, stop: StopRequest, sleep: Callable[[float], None] = time.sleep) -> None:
        """Do what is asked for before a step; waiting ends early when a stop is requested.

        Raises:
            FailedOnRequest: this is the step to fail at.
        """
        if step == self.fail_at_step:
            raise FailedOnRequest(f"failing before step {step}, as --fail-at-step asked")
        if step == self.crash_at_step:
            os._exit(CRASH_STATUS)
        left = float("inf") if step == self.hang_at_step else self.step_seconds
        while left > 0 and not stop.requested:
            sleep(min(left, _SLICE_SECONDS))
            left -= _SLICE_SECONDS
