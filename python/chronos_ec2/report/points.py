"""A run's figures as points on axes: what the trainer told over its steps, the machine over its seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from chronos_ec2.metrics_log import Record, time_of
from chronos_ec2.report.run_files import entries, number

_NO_FIGURES: Final = frozenset({"step", "epoch", "t", "event", "seconds", "bytes", "series"})

STEPS_END: Final = 2**63
"""No trainer comes so far, and those who draw or store figures count their steps in 64 bits."""


class Point(NamedTuple):
    """One figure.

    Attributes:
        step: of the training; of a machine's samples the second since the first of them.
        value: None where the trainer told none, or one that is not finite.
        at: when it was told, UTC; None where the line does not say.
    """

    step: float
    value: float | None
    at: datetime | None


def training_points(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Each number of a trainer's metric and eval lines, in the order of its steps.

    A step that is told again, as after a resume, counts as told last; one beyond 64 bits is none.
    """
    found: dict[str, dict[float, Point]] = {}
    for event in events:
        step = number(event.get("step"))
        if step is None or abs(step) >= STEPS_END or event.get("event", "metric") not in ("metric", "eval"):
            continue
        at = time_of(dict(event))
        for name, value in event.items():
            if name not in _NO_FIGURES and (value is None or number(value) is not None):
                found.setdefault(name, {})[step] = Point(step, number(value), at)
    return {name: [points[step] for step in sorted(points)] for name, points in found.items()}


def machine_points(samples: Sequence[Record]) -> dict[str, list[Point]]:
    """Each number of the sampler's lines: `system/cpu_percent`, `system/gpu_0_util_percent`, …

    `system/` is the prefix by which MLflow tells a machine's metrics from a model's.
    """
    found: dict[str, list[Point]] = {}
    timed = [(at, sample) for sample in samples if (at := time_of(sample)) is not None]
    for at, sample in timed:
        second = round((at - timed[0][0]).total_seconds())
        for name, value in _numbers(sample):
            found.setdefault(f"system/{name}", []).append(Point(second, value, at))
    return found


def _numbers(sample: Record) -> Iterator[tuple[str, float]]:
    for name, value in sample.items():
        if (figure := number(value)) is not None:
            yield name, figure
    for place, gpu in enumerate(entries(sample.get("gpus"))):
        for name, value in gpu.items():
            if name != "index" and (figure := number(value)) is not None:
                yield f"gpu_{gpu.get('index', place)}_{name}", figure
