"""The metrics of a run: what the trainer says and what a sampler measures of the machine, an object a line.

docs/metrics.md has every field with its unit. On the instance all lines go into one file. While the run goes
on, that file is in S3 as numbered parts; what the run ends with is the whole file. A part is full, and never
written again, once it has `PART_BYTES`; then the next number goes on. So a reader that has come to the end of
a full part asks for the next one, and needs no listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from chronos_ec2.state.json_text import decode_json

WHOLE: Final = "metrics.jsonl"
"""The whole file's name under the run's prefix; there once the run has saved its results."""
PARTS: Final = "metrics/"
PART_BYTES: Final = 256 * 1024

Record = dict[str, Any]
Source = Literal["trainer", "sampler", "kernel"]


def part_name(number: int) -> str:
    """A part's name under the run's prefix: `metrics/00001.jsonl` is the first."""
    return f"{PARTS}{number:05d}.jsonl"


def parse_lines(data: bytes) -> Iterator[Record]:
    """The records in some lines; what is no JSON object, as a line that a crash has cut, is left out."""
    for line in data.splitlines():
        try:
            record = decode_json(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def source_of(record: Record) -> Source:
    """Who wrote a record. A line without a known `source` is the trainer's."""
    source = record.get("source")
    return source if source in ("sampler", "kernel") else "trainer"


def time_of(record: Record) -> datetime | None:
    """When a record was written, aware, in UTC; None when it does not say."""
    text = record.get("t")
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):  # also the year 1 in a zone east of UTC
        return None


@dataclass(frozen=True, slots=True)
class MetricsLog:
    """A run's records by what they are, each in the order of the file.

    Attributes:
        training: the trainer's events (`event` is start, metric, eval, checkpoint, …).
        samples: what the sampler has measured.
        events: the sampler's findings that are no sample (`event` is machine or idle_gpu).
        kernel: the kernel's messages about GPUs and memory.
    """

    training: tuple[Record, ...] = ()
    samples: tuple[Record, ...] = ()
    events: tuple[Record, ...] = ()
    kernel: tuple[Record, ...] = ()


def sort_records(records: Iterable[Record]) -> MetricsLog:
    """Records of one run, sorted by what they are."""
    training: list[Record] = []
    samples: list[Record] = []
    events: list[Record] = []
    kernel: list[Record] = []
    for record in records:
        source = source_of(record)
        if source == "trainer":
            training.append(record)
        elif source == "kernel":
            kernel.append(record)
        else:
            (events if "event" in record else samples).append(record)
    return MetricsLog(tuple(training), tuple(samples), tuple(events), tuple(kernel))
