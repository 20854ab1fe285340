"""A fetched run's figures as an event file, the form in which TensorBoard reads them."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from chronos_ec2.errors import ToolMissing
from chronos_ec2.report.points import Point, machine_points, training_points
from chronos_ec2.report.run_files import read_run

FOLDER: Final = "tensorboard"
_FILE: Final = "events.out.tfevents.chronos"
"""Always the same name: a second fetch must not lay a second line over the first."""


def write_events(run: Path) -> Path | None:
    """Write `tensorboard/` into a fetched run's folder.

    Args:
        run: the folder, with metrics.jsonl or its parts in it.

    Returns:
        The file, in place of the one of an earlier call; None when the run has told no figure.

    Raises:
        ToolMissing: tensorboard is not installed.
        OSError: the folder cannot be written.
    """
    metrics = read_run(run).metrics
    columns = {**training_points(metrics.training), **machine_points(metrics.samples)}
    if not columns:
        return None
    if find_spec("tensorboard") is None:
        raise ToolMissing("the tensorboard package is not installed: run ./invokew setup")
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as kept:
        _write(Path(kept), columns)
        (made,) = Path(kept).iterdir()
        return made.replace(folder / _FILE)


def _write(folder: Path, columns: dict[str, list[Point]]) -> None:
    # Not at the top: they take a second to load, and most tasks write no events.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for name, points in columns.items():
        for point in points:
            if point.value is not None:
                event = Event(
                    step=int(point.step),
                    wall_time=point.at.timestamp() if point.at else 0.0,
                    summary=Summary(value=[Summary.Value(tag=name, simple_value=point.value)]),
                )
                writer.add_event(event)
    writer.close()
