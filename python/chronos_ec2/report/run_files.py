"""What a run has left, from a folder laid out like its prefix in the bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chronos_ec2.metrics_log import PARTS, WHOLE, MetricsLog, parse_lines, sort_records
from chronos_ec2.state.clock import from_text
from chronos_ec2.state.json_text import decode_json

RECORD: Final = "run.json"
TRAINING: Final = "training.json"
PREFLIGHT: Final = "preflight.json"
FORECASTS: Final = "forecasts.parquet"
HISTORY: Final = "forecast_history.parquet"
CONFIG: Final = "config.yaml"
READ: Final = (RECORD, TRAINING, PREFLIGHT, FORECASTS, HISTORY, CONFIG, WHOLE)
"""The names that a report reads, beside the parts of the metrics."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run's files, decoded; what is missing or broken is empty, and named in `missing`.

    Attributes:
        folder: where they lie; the Parquet files are read from there when they are needed.
        config: config.yaml as text.
        missing: a line for each file that a report would have liked to read.
    """

    folder: Path
    record: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    preflight: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    metrics: MetricsLog = field(default_factory=MetricsLog)
    missing: tuple[str, ...] = ()


def read_run(folder: Path) -> RunFiles:
    """Read everything of a run but its forecasts; nothing that is in there can make this fail."""
    missing: list[str] = []
    record, training, preflight = (
        _read_object(folder / name, missing) for name in (RECORD, TRAINING, PREFLIGHT)
    )
    try:
        config = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        config = ""
        missing.append(f"{CONFIG} is not there")
    metrics = sort_records(record for data in _metrics(folder) for record in parse_lines(data))
    return RunFiles(folder, record, training, preflight, config, metrics, tuple(missing))


def _metrics(folder: Path) -> Iterator[bytes]:
    """The whole file, or the parts of a run that never wrote it."""
    whole = folder / WHOLE
    for path in [whole] if whole.is_file() else sorted((folder / PARTS).glob("*.jsonl")):
        try:
            yield path.read_bytes()
        except OSError:
            continue


def _read_object(path: Path, missing: list[str]) -> Mapping[str, Any]:
    try:
        value = decode_json(path.read_bytes())
    except OSError:
        missing.append(f"{path.name} is not there")
        return {}
    except (ValueError, RecursionError) as error:
        missing.append(f"{path.name} is not JSON ({error})")
        return {}
    if not isinstance(value, dict):
        missing.append(f"{path.name} holds no JSON object")
        return {}
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def flat(value: object, name: str = "", depth: int = 4) -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted names with their values as text; deeper ones, and lists, as JSON."""
    if isinstance(value, Mapping) and depth > 0:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key), depth - 1)
    elif isinstance(value, float):
        yield name, f"{value:.6g}"
    elif value is not None:
        yield name, value if isinstance(value, str) else json.dumps(value)


def entries(value: object) -> list[Mapping[str, Any]]:
    """The mappings of a list; nothing of anything else."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """The value when it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if -1e300 < found < 1e300 else None


def moment(value: object) -> datetime | None:
    """A time as the records write it, else None."""
    try:
        return from_text(value) if isinstance(value, str) else None
    except ValueError:
        return None


def day_and_time(value: object) -> str:
    """A record's time for a person, `2026-11-27 17:06:30 UTC`; what is no time as it stands."""
    found = moment(value)
    return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if found else str(value or "not known")
