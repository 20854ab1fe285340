"""Where the training's lines go: on to our own output, into the log, and what they say into the record."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from chronos_ec2.instance.metric_lines import Event, parse_line
from chronos_ec2.instance.training_record import TrainingRecord, plain, write_json_atomically
from chronos_ec2.metrics_log import source_of
from chronos_ec2.state.clock import to_text, utc_now

_SAVE_EVERY_SECONDS: Final = 1.0
_NAMES_ERROR: Final = re.compile(r"^(\[[\w:]+\]:? *)*(error: |[\w.]*(Error|Exception)\b)")
_OF_ANOTHERS_END: Final = re.compile(r"\bChildFailedError\b|Connection (closed|reset) by peer")
"""What torchrun, and the workers that are left, say when one worker has failed."""
_TORCHRUN_RULE: Final = re.compile(r"={20,}")
"""The lines around what torchrun sums a failure up in."""
_FILE_DESCRIPTORS: Final = {"stdout": 1, "stderr": 2}


class Collector:
    """Takes lines from two threads.

    A place that cannot be written (a closed pipe, a full disk) is left out from then on, and said once;
    the training goes on.

    Args:
        output: the run's output folder; `metrics.jsonl`, `training.json` and `logs/` lie in it.
        record: gathers the events.
        log: takes one line of talk.
        monotonic: seconds, to write `training.json` not more than once a second.
        now: the time that each line of `metrics.jsonl` gets.
    """

    def __init__(
        self,
        output: Path,
        record: TrainingRecord,
        log: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._output = output
        self._record = record
        self._log = log
        self._monotonic = monotonic
        self._now = now
        self._lock = threading.Lock()
        self._saved_at = monotonic()
        self._concluded = False
        self._muted: set[str] = set()
        self._last_words = self._last_error = ""
        (output / "logs").mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {
            name: (output / name).open("ab", buffering=0) for name in ("logs/training.log", "metrics.jsonl")
        }

    def take(self, stream: str, lines: list[str]) -> None:
        """Take what came on `stream`, "stdout" or "stderr"; it goes on marked: one log has many sources."""
        text = "".join(f"{line}\n" for line in lines).encode()
        self._write(stream, "".join(f"trainer| {line}\n" for line in lines).encode())
        with self._lock:
            if self._concluded:
                return
            self._write("logs/training.log", text)
            if stream == "stderr":
                self._listen(lines)
            events = [event for line in lines if (event := parse_line(line)) is not None]
            if events:
                self._keep(events)

    @property
    def last_words(self) -> str:
        """The last line on stderr that has a word; below torchrun's summary, the last that names an error."""
        return self._last_words.strip()[:500]

    def _listen(self, lines: list[str]) -> None:
        for line in lines:
            if _NAMES_ERROR.search(line) and not (self._last_error and _OF_ANOTHERS_END.search(line)):
                self._last_error = line
            if _TORCHRUN_RULE.fullmatch(line.strip()):
                self._last_words = self._last_error or self._last_words
            elif any(sign.isalnum() for sign in line):
                self._last_words = line

    def save(self, document: dict[str, object]) -> None:
        """Write `training.json`."""
        try:
            write_json_atomically(self._output / "training.json", document)
        except OSError as error:
            self._log(f"training.json cannot be written: {error}")

    def conclude(self, document: dict[str, object]) -> None:
        """Write the last `training.json`; what still comes on a stream is not collected any more."""
        with self._lock:
            self.save(document)
            for file in self._files.values():
                file.close()
            self._concluded = True

    def _keep(self, events: list[Event]) -> None:
        worth_saving = False
        rows = []
        for event in events:
            worth_saving = self._record.observe(event) or worth_saving
            rows.append(json.dumps(plain(self._row(event)), allow_nan=False) + "\n")
        self._write("metrics.jsonl", "".join(rows).encode())
        now = self._monotonic()
        if worth_saving and now - self._saved_at >= _SAVE_EVERY_SECONDS:
            self._saved_at = now
            self.save(self._record.document("running"))

    def _row(self, event: Event) -> Event:
        """An event as docs/metrics.md has it; what a trainer says is not taken for another source's."""
        row = {**event, "t": event.get("t", to_text(self._now()))}
        return row if source_of(row) == "trainer" else {**row, "source": "trainer"}

    def _write(self, place: str, data: bytes) -> None:
        if place in self._muted:
            return
        try:
            view = memoryview(data)
            while view:
                if place in self._files:
                    written = self._files[place].write(view)
                else:
                    written = os.write(_FILE_DESCRIPTORS[place], view)
                view = view[written or 0 :]
        except OSError as error:
            self._muted.add(place)
            self._log(f"{place} takes no more, training goes on: {error}")
