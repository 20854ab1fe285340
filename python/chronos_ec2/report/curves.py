"""Curves over the steps of the training, and what the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from chronos_ec2.metrics_log import MetricsLog, Record, time_of
from chronos_ec2.report.charts import Chart, Line, joined, thinned
from chronos_ec2.report.points import training_points
from chronos_ec2.report.run_files import entries, mapping, number

_FIRST: Final = ("loss", "lr", "grad_norm")
_MOST_CURVES: Final = 8
_MOST_SAMPLES: Final = 600
Points = list[tuple[float, float | None]]


def training_curves(log: MetricsLog, training: Mapping[str, Any]) -> list[Chart]:
    """Loss, then each other number that the trainer told, over its steps.

    Args:
        log: the trainer's events.
        training: training.json; its baselines are lines in the charts of their metrics, and its history
            stands in where there are no events.
    """
    told = training_points(log.training or entries(training.get("history")))
    columns = {name: [(point.step, point.value) for point in points] for name, points in told.items()}
    baseline = mapping(mapping(training.get("baselines")).get("seasonal_naive"))
    scored = [count for event in log.training if (count := number(event.get("series"))) is not None]
    total = number(mapping(training.get("data")).get("series")) or 0
    naive = "seasonal naive of all series" if min(scored, default=total) < total else "seasonal naive"
    return [
        _curve(name, points, number(baseline.get(name)), naive)
        for name, points in _in_order(columns)[:_MOST_CURVES]
        if sum(y is not None for _, y in points) > 1
    ]


def _in_order(columns: dict[str, Points]) -> list[tuple[str, Points]]:
    """Loss first, then metrics by name, learning rate and gradient last."""

    def place(name: str) -> tuple[int, str]:
        return (0 if name == "loss" else 2 if name in _FIRST else 1, name)

    return sorted(columns.items(), key=lambda column: place(column[0]))


def _curve(name: str, points: Points, baseline: float | None, naive: str) -> Chart:
    kept = thinned(points)
    x = [step for step, _ in kept]
    lines = [Line(label=name, values=[value for _, value in kept], role="model", points=len(kept) < 40)]
    if baseline is not None:
        lines.append(Line(label=naive, values=[baseline] * len(x), role="baseline"))
    title = {"loss": "Training loss", "lr": "Learning rate", "grad_norm": "Gradient norm"}.get(name, name)
    return Chart(title=title, x=x, x_label="step", lines=lines, y_label=name)


def utilisation(log: MetricsLog) -> list[Chart]:
    """Processor, memory and GPUs in percent, and disk and network, over the time of day."""
    timed = [(moment, sample) for sample in log.samples if (moment := time_of(sample)) is not None]
    if len(timed) < 2:
        return []
    percent = {
        "GPU": [
            (at, _mean(gpu.get("util_percent") for gpu in entries(sample.get("gpus"))))
            for at, sample in timed
        ],
        "GPU memory": [(at, _share(*_gpu_memory(sample))) for at, sample in timed],
        "processor": [(at, number(sample.get("cpu_percent"))) for at, sample in timed],
        "memory": [
            (at, _share(sample.get("memory_bytes"), sample.get("memory_total_bytes"))) for at, sample in timed
        ],
    }
    moved = {
        name: [(at, _megabytes(sample.get(f"{field}_bytes_per_second"))) for at, sample in timed]
        for name, field in (
            ("network in", "network_in"),
            ("network out", "network_out"),
            ("disk read", "disk_read"),
            ("disk write", "disk_write"),
        )
    }
    charts = [
        _over_time("Machine", "percent", percent, most=100.0),
        _over_time("Network and disk", "MB a second", moved),
    ]
    return [chart for chart in charts if chart.lines]


def _over_time(
    title: str,
    y_label: str,
    columns: dict[str, list[tuple[datetime, float | None]]],
    most: float | None = None,
) -> Chart:
    shown = {
        name: [(at.timestamp(), value) for at, value in column]
        for name, column in columns.items()
        if any(value is not None for _, value in column)
    }
    x, values = joined([_averaged(column) for column in shown.values()])
    lines = [
        Line(label=name, values=column, role=role)
        for name, column, role in zip(shown, values, "abcd", strict=False)
    ]
    return Chart(
        title=title,
        x=x,
        x_label="UTC",
        x_kind="time",
        lines=lines,
        y_label=y_label,
        y_from_zero=True,
        y_most=most,
    )


def _averaged(points: Points) -> Points:
    """At most so many points, each the mean of its stretch."""
    width = -(-len(points) // _MOST_SAMPLES)
    stretches = [points[begin : begin + width] for begin in range(0, len(points), width)]
    return [(stretch[0][0], _mean(value for _, value in stretch)) for stretch in stretches]


def _mean(values: Iterable[object]) -> float | None:
    known = [found for value in values if (found := number(value)) is not None]
    return sum(known) / len(known) if known else None


def _share(part: object, whole: object) -> float | None:
    some, all_ = number(part), number(whole)
    return 100 * some / all_ if some is not None and all_ else None


def _gpu_memory(sample: Record) -> tuple[float | None, float | None]:
    gpus = entries(sample.get("gpus"))
    parts, wholes = (
        [number(gpu.get(name)) for gpu in gpus] for name in ("memory_bytes", "memory_total_bytes")
    )
    if not gpus or None in parts or None in wholes:
        return None, None
    return sum(filter(None, parts)), sum(filter(None, wholes))


def _megabytes(value: object) -> float | None:
    found = number(value)
    return None if found is None else found / 1e6
