"""`training.json`: what a training run did, gathered from its events and written atomically."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from chronos_ec2.instance.metric_lines import Event, as_number
from chronos_ec2.state.clock import to_milliseconds, to_text, utc_now

SCHEMA_VERSION: Final = 1
MAX_HISTORY: Final = 2000
MAX_WARNINGS: Final = 20
_MAX_DEPTH: Final = 16
_MAX_STEP: Final = 1e12
_LOSSES: Final = ("loss", "train_loss", "eval_loss", "WQL")
# a trainer that writes strict JSON writes NaN as null; a WQL of values that are all zero has no value
_NEVER_NULL: Final = ("loss", "train_loss")
_SAVED_ON: Final = frozenset({"checkpoint", "eval", "train_end", "final", "train_summary"})


class History:
    """At most `limit` points of a series that may have millions: evenly thinned, the newest always there."""

    def __init__(self, limit: int = MAX_HISTORY) -> None:
        self._limit = limit
        self._kept: list[dict[str, float]] = []
        self._stride = 1
        self._seen = 0
        self._newest: dict[str, float] | None = None

    def add(self, point: dict[str, float]) -> None:
        """Take the next point."""
        if self._seen % self._stride == 0:
            self._kept.append(point)
        self._seen += 1
        self._newest = point
        if len(self._kept) >= self._limit:
            self._kept = self._kept[::2]
            self._stride *= 2

    def points(self) -> list[dict[str, float]]:
        """The points that are kept, oldest first."""
        if self._newest is None or self._kept[-1] is self._newest:
            return list(self._kept)
        return [*self._kept, self._newest]


class TrainingRecord:
    """Gathers a run's events and turns them into the document that `training.json` holds.

    Args:
        about: the fields known from the start (run_id, trainer, command, training_config, data, ...).
        started_at: UTC.
        now: the clock.

    Attributes:
        model_file: path, bytes and sha256 of the model, once it is known.
        process_time: stands in for what `timeline` lacks; the wrapper fills it for a command, from its
            process's start and end: one that tells no steps trains all the time.
    """

    def __init__(
        self, about: Mapping[str, Any], started_at: datetime, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._about = dict(about)
        self._started_at = started_at
        self._now = now
        self.process_time: dict[str, str] = {}
        self._reached: dict[str, str] = {}
        self.model_file: dict[str, Any] | None = None
        self._start: Event = {}
        self._end: Event | None = None
        self._final: Event | None = None
        self._checkpoint: Event | None = None
        self._numbers: dict[str, float] = {}
        self._warnings: list[str] = []
        self._history = History()
        self._label: str | None = None
        self._bad_loss: str | None = None
        self._bad_gradient = False
        self._told_loss = self._only_zeros = False
        self._last_step: int | None = None
        self._resumed_at: int | None = None
        self._summarised = False

    @property
    def timeline(self) -> dict[str, str]:
        """When the first step began and the last one was done, as far as they have come.

        A trainer that announces its `start` does so when its first step begins; of another one the first
        numbers count.
        """
        return {**self.process_time, **self._reached}

    @property
    def label(self) -> str | None:
        """Where the training is, as `current_step` has it: `step_120`, or `epoch_3` without steps."""
        return self._label

    @property
    def model_path(self) -> str | None:
        """Where the trainer says that its model lies."""
        path = (self._final or {}).get("model_path")
        return path if isinstance(path, str) else None

    @property
    def interrupted(self) -> bool:
        """Whether the trainer said that it was stopped before its last step."""
        return self._end is not None and self._end.get("interrupted") is True

    @property
    def finished(self) -> bool:
        """Whether the trainer said that it reached its end."""
        ended = self._end is not None and not self.interrupted
        return ended or self._summarised

    @property
    def closed(self) -> bool:
        """Whether one of the project's own trainers reached its end and has written its results."""
        return not self.missing_events() and not self.interrupted

    @property
    def bad_loss(self) -> str | None:
        """The first loss that is no number, and where; None when there was none."""
        return self._bad_loss

    def observe(self, event: Event) -> bool:
        """Take one event.

        Returns:
            Whether `training.json` is worth writing again now.
        """
        kind = event["event"]
        self._note_step(event)
        self._note_time(event)
        if kind == "start":
            self._start = event
        elif kind == "resume":
            self._resumed_at = self._last_step
        elif kind in ("metric", "eval", "train_summary"):
            self._observe_numbers(event)
            self._summarised = self._summarised or kind == "train_summary"
        elif kind == "checkpoint":
            self._checkpoint = {name: value for name, value in event.items() if name != "event"}
        elif kind == "warning" and len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(str(event.get("message"))[:500])
        elif kind == "train_end":
            self._end = event
            self._numbers.update(_numbers(event, ("steps", "seconds")))
        elif kind == "final":
            self._final = event
            self._look_for_bad_loss(_mapping(event.get("metrics")))
        return kind in _SAVED_ON

    def missing_events(self) -> list[str]:
        """The closing events of the project's own trainers that never came."""
        return [name for name, seen in (("train_end", self._end), ("final", self._final)) if seen is None]

    def broken_numbers(self) -> str | None:
        """Why the numbers say that the training failed, whatever the exit code; None when they do not."""
        if self._bad_loss is not None:
            return self._bad_loss
        if self._bad_gradient:
            return "the last grad_norm is nan: the weights are lost"
        if self._only_zeros:
            # What a Trainer says that filters NaN out of its log, or whose loss reaches no weight.
            return "the loss was exactly 0 in every line: nothing was learned"
        return None

    def document(
        self,
        status: str,
        *,
        ended_at: datetime | None = None,
        exit_code: int | None = None,
        error: str | None = None,
    ) -> dict[str, Any]:
        """The document; NaN and infinity are null in it."""
        final = self._final or {}
        told = {name: value for name, value in _mapping(self._start.get("data")).items() if name != "files"}
        facts = told | {name: final.get(name, self._start.get(name)) for name in ("series", "rows")}
        data = {**_mapping(self._about.get("data")), **{k: v for k, v in facts.items() if v is not None}}
        fields = {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            **self._about,
            "started_at": to_text(self._started_at),
            "ended_at": to_text(ended_at) if ended_at else None,
            "exit_code": exit_code,
            "error": error,
            "bad_loss": self._bad_loss,
            "last_step": self._last_step,
            "timeline": self.timeline,
            **({} if self._resumed_at is None else {"resumed_from_step": self._resumed_at}),
            "data": data,
            "model": {"parameters": self._start.get("params"), **(self.model_file or {"path": None})},
            "metrics": {**self._numbers, **_mapping(final.get("metrics"))},
            "baselines": _mapping(final.get("baselines")),
            "checkpoint": self._checkpoint,
            "warnings": self._warnings,
            "versions": {"python": platform.python_version(), **_mapping(self._start.get("versions"))},
            "history": self._history.points(),
        }
        plain_fields: dict[str, Any] = plain(fields)
        return plain_fields

    def _note_step(self, event: Event) -> None:
        step = as_number(event.get("steps" if event["event"] == "train_end" else "step"))
        if step is not None and 0 <= step < _MAX_STEP:
            self._last_step = int(step)

    def _note_time(self, event: Event) -> None:
        counted = any(as_number(event.get(name)) is not None for name in ("step", "epoch"))
        stepped = counted and event["event"] in ("metric", "checkpoint")
        now = to_milliseconds(self._now())
        if event["event"] == "start" or stepped:
            self._reached.setdefault("first_step", now)
        if event["event"] == "train_end" or (stepped and self._end is None):
            self._reached["last_step"] = now

    def _observe_numbers(self, event: Event) -> None:
        step, epoch = as_number(event.get("step")), as_number(event.get("epoch"))
        if step is not None and 0 <= step < _MAX_STEP:
            self._label = f"step_{int(step)}"
        elif epoch is not None and 0 <= epoch < _MAX_STEP and not (self._label or "").startswith("step_"):
            self._label = f"epoch_{int(epoch)}"
        numbers = _numbers(event, tuple(event))
        if numbers and event["event"] != "train_summary":
            self._history.add(numbers)
        self._numbers.update({name: value for name, value in numbers.items() if name not in ("step", "lr")})
        self._look_for_bad_loss(event)
        # Where logging_steps is more than max_steps, Hugging Face tells a loss in its summary alone, which
        # says 0 as well when a run that goes on had no step left to take.
        name = "loss" if "loss" in event or "resume_from" in self._about else "train_loss"
        loss = as_number(event.get(name))
        if loss is not None:
            self._only_zeros = loss == 0 and (self._only_zeros or not self._told_loss)
            self._told_loss = True
        gradient = as_number(event.get("grad_norm"))
        if gradient is not None:
            # the last one counts: with fp16 a loss scaler skips a bad step and goes on
            self._bad_gradient = math.isnan(gradient)

    def _look_for_bad_loss(self, event: Mapping[str, Any]) -> None:
        for name in _LOSSES:
            value = as_number(event.get(name))
            null = name in _NEVER_NULL and name in event and event[name] is None
            if self._bad_loss is None and (null or (value is not None and not math.isfinite(value))):
                self._bad_loss = f"{name} is {'null' if null else value}{self._where()}"

    def _where(self) -> str:
        return f" at {self._label}" if self._label else ""


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(event: Event, names: tuple[str, ...]) -> dict[str, float]:
    numbers = {}
    for name in names:
        value = event.get(name)
        if as_number(value) is not None and value is not None:
            numbers[name] = value
    return numbers


def plain(value: Any, depth: int = 0) -> Any:
    """A copy that strict JSON can hold: NaN and infinity are None, what is nested too deep is text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(name): plain(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, depth + 1) for entry in value]
    return str(value)


def write_json_atomically(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader, or a crash, finds the old one or the new one, never a half."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_facts(path: Path) -> dict[str, Any]:
    """A file's size and digest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def describe_data(folder: Path) -> dict[str, Any]:
    """The training data's files, from the manifest that came with them, else from the folder."""
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        return {name: manifest[name] for name in ("files", "series", "rows")}
    except (OSError, ValueError, KeyError, TypeError):
        files = [
            {"name": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": None}
            for path in sorted(folder.rglob("*.parquet"))
        ]
        return {"files": files, "series": None, "rows": None}
