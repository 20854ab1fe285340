"""How far a run has come: bytes fetched, steps trained, the loss, and what its machine does."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from chronos_ec2.metrics_log import Record, source_of, time_of
from chronos_ec2.report.points import STEPS_END
from chronos_ec2.report.run_files import mapping, number

MAX_LOSSES: Final = 4096
MAX_SAMPLES: Final = 240
_OWN_TRAINERS: Final = ("chronos", "test")
_STEP: Final = re.compile(r"step_(\d{1,18})")
_FETCHED: Final = re.compile(r"INFO  fetched so far: (.*)")
_PART: Final = re.compile(r"(\w+) (\d{1,18}) bytes")
_RATE_SECONDS: Final = 120
_SILENT_GAPS: Final = 5
"""After so many of the usual gaps, and a minute for the upload, nobody knows how long it still takes."""
_UPLOAD_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes that have come to the machine, and all where that is known."""

    bytes: int
    total: int | None

    @property
    def share(self) -> float | None:
        """0 to 1."""
        return None if not self.total else min(1.0, self.bytes / self.total)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one look at a run's metrics saw.

    Attributes:
        step, total_steps: optimiser steps; None where nobody has told them.
        seconds_left: of training, at the pace of the last two minutes; None when it has fallen silent.
        losses: the training's, oldest first, thinned.
        first_loss, least_loss: of all of them.
        samples: the machine's newest samples, oldest first (docs/metrics.md).
        machine: what the machine is.
        fetched: what the machine fetches, by `environment` and `data`.
        idle_minutes: how long no GPU has done anything in training, once that was too long.
        kernel: the kernel's last message about a GPU.
    """

    step: int | None = None
    total_steps: int | None = None
    seconds_left: float | None = None
    losses: tuple[float, ...] = ()
    first_loss: float | None = None
    least_loss: float | None = None
    samples: tuple[Record, ...] = ()
    machine: Record | None = None
    fetched: Mapping[str, Fetched] | None = None
    idle_minutes: float | None = None
    kernel: str | None = None

    @property
    def share(self) -> float | None:
        """How much of the training is done, 0 to 1."""
        if self.step is None or not self.total_steps:
            return None
        return min(1.0, self.step / self.total_steps)

    def to_json(self) -> dict[str, Any]:
        """For `--json`: the same keys at every look."""
        fetched = self.fetched or {}
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left),
            "loss": self.losses[-1] if self.losses else None,
            "fetched": {name: {"bytes": one.bytes, "total": one.total} for name, one in fetched.items()},
            "machine": self.samples[-1] if self.samples else None,
            "idle_gpu_minutes": self.idle_minutes,
            "kernel": self.kernel,
        }


class Tracker:
    """Gathers a run's records as they come."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._first: float | None = None
        self._least: float | None = None
        self._stride, self._seen = 1, 0
        self._pace: deque[tuple[datetime, int]] = deque(maxlen=512)
        self._samples: deque[Record] = deque(maxlen=MAX_SAMPLES)
        self._machine: Record | None = None
        self._idle: float | None = None
        self._kernel: str | None = None
        self._step: int | None = None

    def take(self, records: Iterable[Record]) -> None:
        """Take the next records."""
        for record in records:
            source = source_of(record)
            if source == "trainer":
                self._take_event(record)
            elif source == "kernel":
                self._kernel = str(record.get("message"))
            elif record.get("event") == "machine":
                self._machine = record
            elif record.get("event") == "idle_gpu":
                self._idle = number(record.get("minutes"))
            else:
                self._take_sample(record)

    def progress(
        self, document: Mapping[str, Any] | None, current_step: str | None, log: Sequence[str], now: datetime
    ) -> Progress:
        """How far the run has come.

        Args:
            document: its run.json.
            current_step: the state file's.
            log: the last lines of its log.
        """
        named = _STEP.fullmatch(current_step or "")
        steps = [step for step in (self._step, int(named[1]) if named else None) if step is not None]
        total = total_steps(document)
        step = max(steps) if steps else None
        return Progress(
            step=step,
            total_steps=total,
            seconds_left=self._seconds_left(total, now),
            losses=tuple(self._losses),
            first_loss=self._first,
            least_loss=self._least,
            samples=tuple(self._samples),
            machine=self._machine,
            fetched=fetched_so_far(document, log),
            idle_minutes=self._idle,
            kernel=self._kernel,
        )

    def _take_event(self, record: Record) -> None:
        step, at = _steps(record.get("step")), time_of(record)
        if step is not None and record.get("event") in ("metric", "eval", "resume"):
            self._step = step
            if at is not None and record["event"] == "metric":
                self._pace.append((at, step))
        loss = number(record.get("loss"))
        if loss is not None and record.get("event") == "metric":
            if self._seen % self._stride == 0:
                self._losses.append(loss)
            else:
                self._losses[-1] = loss
            self._seen += 1
            self._first = loss if self._first is None else self._first
            self._least = loss if self._least is None else min(self._least, loss)
            if len(self._losses) >= MAX_LOSSES:
                self._losses, self._stride = self._losses[1::2], self._stride * 2

    def _take_sample(self, record: Record) -> None:
        self._samples.append(record)
        loads = [number(gpu.get("util_percent")) for gpu in gpus_of(record)]
        if record.get("phase") != "training" or any((load or 0) >= 2 for load in loads):
            self._idle = None

    def _seconds_left(self, total: int | None, now: datetime) -> float | None:
        if total is None or len(self._pace) < 2:
            return None
        at, step = self._pace[-1]
        near = [one for one in self._pace if (at - one[0]).total_seconds() <= _RATE_SECONDS]
        points = near if len(near) > 1 else list(self._pace)[-2:]
        then, first = points[0]
        seconds, silent = (at - then).total_seconds(), (now - at).total_seconds()
        if seconds <= 0 or step <= first:
            return None
        if step < total and silent > _UPLOAD_SECONDS + _SILENT_GAPS * seconds / (len(points) - 1):
            return None
        return max(0.0, (total - step) * seconds / (step - first) - silent)


def gpus_of(sample: Record) -> list[Record]:
    """A sample's GPUs."""
    gpus = sample.get("gpus")
    return [gpu for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []


def total_steps(document: Mapping[str, Any] | None) -> int | None:
    """How many steps a run was asked for; a command of the user's own has not been told."""
    config = mapping((document or {}).get("config"))
    if config.get("trainer") not in _OWN_TRAINERS:
        return None
    return _steps(mapping(config.get("training_config")).get("max_steps"))


def _steps(value: object) -> int | None:
    """A count of steps; None for what is none, or more than anybody trains."""
    steps = number(value)
    return None if steps is None or abs(steps) >= STEPS_END else int(steps)


def fetched_so_far(document: Mapping[str, Any] | None, log: Sequence[str]) -> dict[str, Fetched] | None:
    """What the machine's last line about it says (`shell/lib/progress.sh`); the totals are in run.json."""
    line = next((found for text in reversed(log) if (found := _FETCHED.search(text))), None)
    if line is None:
        return None
    files = mapping((document or {}).get("dataset")).get("files")
    sizes = [number(mapping(file).get("bytes")) for file in files] if isinstance(files, list) else []
    archive = number(mapping((document or {}).get("environment_archive")).get("bytes"))
    totals = {"environment": archive, "data": sum(size or 0 for size in sizes) or None}
    fetched = {}
    for name, count in _PART.findall(line[1]):
        total = totals.get(name)
        # The machine counts what lies on its disk, which is a little more.
        come = int(count) if total is None else min(int(count), int(total))
        fetched[name] = Fetched(come, None if total is None else int(total))
    return fetched
