"""The one screen of `watch`: drawn line by line, so that it fills any terminal and overflows none."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.console import OverflowMethod
from rich.text import Text

from chronos_ec2.metrics_log import Record
from chronos_ec2.report.run_files import number
from chronos_ec2.words import one_line, printable, size_text, span_text
from chronos_ec2.workstation.run_progress import gpus_of
from chronos_ec2.workstation.sight import Phase, Sight, cost_so_far

PHASES: Final = (
    *("initialization", "system_setup", "venv_download", "gpu_preflight"),
    *("data_sync", "training", "results_sync", "cleanup"),
)
WIDE: Final = 140
RIGHT: Final = 60
"""Cells of the second column on a wide terminal."""
LEAST_LOG_LINES: Final = 3
_FETCHES: Final = {"venv_download": "environment", "data_sync": "data"}
_COLOURS: Final = {
    "stalled": "bold yellow",
    "interrupted": "bold yellow",
    "unknown": "bold yellow",
    "failing": "bold red",
    "gone": "bold red",
    "orphaned": "bold red",
    "corrupt": "bold red",
}
_STALE_SECONDS: Final = 10


class Screen:
    """Draws sights.

    Args:
        encoding: the terminal's; one that is not UTF gets plain characters.
    """

    def __init__(self, encoding: str) -> None:
        fine = encoding.lower().startswith("utf")
        self._overflow: OverflowMethod = "ellipsis" if fine else "crop"
        self._levels = "▁▂▃▄▅▆▇█" if fine else "_.-=+*#"
        self._full, self._half, self._empty = ("━", "╸", "━") if fine else ("#", "#", ".")
        self._done, self._now, self._later, self._bad = "✔▶·✘" if fine else "x>.!"
        self._rule, self._dot = ("─", " · ") if fine else ("-", ", ")
        self._celsius = "°C" if fine else "C"

    def draw(self, sight: Sight, now: datetime, width: int, height: int, note: str | None) -> Text:
        """The screen, in exactly so many lines or fewer."""
        head = self._head(sight, now, width, note)
        phases = self._phases(sight, now, width if width < WIDE else width - RIGHT - 2)
        machine = self._training(sight, width) + self._machine(sight, width)
        log = [Text(printable(line), style="dim") for line in sight.log_tail]
        if width >= WIDE:
            right = self._training(sight, RIGHT) + self._machine(sight, RIGHT, narrow=True)
            body = beside(phases, right, width - RIGHT)
        else:
            room = height - len(head) - len(machine) - LEAST_LOG_LINES - 3
            body = [*self._fit_phases(phases, sight, room), *([Text()] if machine else []), *machine]
        lines = [*head, Text(), *body]
        room = height - len(lines) - 1
        if room > 0:
            title = f"{self._rule * 2} log "
            lines.append(Text(title + self._rule * (width - len(title)), style="dim"))
            lines += log[-room:] if room else []
        return joined(lines[:height], width, self._overflow)

    def last(self, sight: Sight, width: int) -> Text:
        """What stays of a run that has ended: its phases and its loss."""
        rows = [*self._phases(sight, sight.seen_at, min(width, 100)), *self._training(sight, min(width, 100))]
        return joined(rows, width, self._overflow)

    def _head(self, sight: Sight, now: datetime, width: int, note: str | None) -> list[Text]:
        record, age = sight.record, (now - sight.seen_at).total_seconds()
        where = Text().append(f"{sight.environment}  {sight.run_id}  ", style="bold")
        where.append(sight.word, style=_COLOURS.get(sight.word, "bold green"))
        machine = f"{sight.instance_id or 'no instance yet'} {(record and record.instance_type) or ''}"
        facts = []
        if sight.heartbeat_age_seconds is not None:
            facts.append(f"heartbeat {span_text(sight.heartbeat_age_seconds + age)} ago")
        if record is not None and record.started_at is not None:
            facts.append(f"running {span_text(max(0, (now - record.started_at).total_seconds()))}")
        if cost := cost_so_far(sight):
            if sight.deadline is not None:
                cost += f" (in {span_text(max(0, (sight.deadline - now).total_seconds()))})"
            facts.append(cost)
        lines = [spread(where, Text(machine.strip(), style="dim"), width)]
        if cell_len(where.plain) > width:  # how it goes is what must not be cut
            lines = [where[-len(sight.word) :], where[: -len(sight.word)]]
        whole = self._dot.join(facts)
        # The dollars get a line of their own rather than be cut.
        lines += (
            [Text(whole)] if cell_len(whole) <= width else [Text(self._dot.join(facts[:-1])), Text(facts[-1])]
        )
        if record is not None and record.usage is not None:
            lines.append(Text(record.usage.sentence, style="dim"))
        lines += [Text(one_line(word), style="yellow") for word in self._alarms(sight, age, note)]
        return lines

    def _alarms(self, sight: Sight, age: float, note: str | None) -> Iterable[str]:
        if note:
            yield note + (f" (seen {span_text(age)} ago)" if age >= _STALE_SECONDS else "")
        elif age >= _STALE_SECONDS:
            yield f"no answer for {span_text(age)}; this is what was seen before, the run is not affected"
        if sight.detail:
            yield sight.detail
        if sight.progress.idle_minutes is not None:
            minutes = sight.progress.idle_minutes
            yield f"no GPU has done anything for {minutes:.0f} minutes and more; it is paid for"
        if sight.progress.kernel:
            yield f"kernel: {sight.progress.kernel}"

    # -- phases

    def _phases(self, sight: Sight, now: datetime, width: int) -> list[Text]:
        known = {phase.name: phase for phase in sight.phases}
        names = [*(name for name in known if name not in PHASES), *PHASES]
        return [self._phase(name, known.get(name), sight, now, width) for name in names]

    def _phase(self, name: str, phase: Phase | None, sight: Sight, now: datetime, width: int) -> Text:
        if phase is None:
            return Text(f" {self._later} {name}", style="dim")
        seconds = phase.seconds
        if seconds is None and phase.started_at is not None:
            seconds = max(0.0, (now - phase.started_at).total_seconds())
        mark, style = {"ok": (self._done, "green"), "now": (self._now, "bold cyan")}.get(
            phase.outcome, (self._bad, "red")
        )
        row = Text(f" {mark} ", style=style)
        row.append(f"{name:<15}", style="bold" if phase.outcome == "now" else "")
        row.append(f"{span_text(seconds) if seconds is not None else '-':>12}")
        if phase.outcome == "now":
            row.append_text(self._bar_of(name, sight, width - cell_len(row.plain) - 2))
        elif phase.outcome != "ok":
            row.append(f"  {phase.outcome}", style="red")
        return row

    def _bar_of(self, name: str, sight: Sight, width: int) -> Text:
        """A long phase's bar, with what it has done and how long it still takes."""
        progress = sight.progress
        share, words = None, ""
        if name == "training" and progress.step is not None:
            share = progress.share
            words = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
            if progress.seconds_left is not None:
                words += f", {span_text(progress.seconds_left)} left"
        elif name in _FETCHES and (one := (progress.fetched or {}).get(_FETCHES[name])):
            share = one.share
            words = size_text(one.bytes) + (f" of {size_text(one.total)}" if one.total else "")
        if share is None:
            return Text(f"  {words}" if words else "")
        words = f" {share:4.0%}  {words}"
        return Text("  ").append_text(self._bar(share, max(4, min(40, width - len(words))))).append(words)

    def _bar(self, share: float, width: int) -> Text:
        halves = round(share * width * 2)
        full, half = divmod(halves, 2)
        bar = Text(self._full * full + self._half * half, style="cyan")
        return bar.append(self._empty * (width - full - half), style="bright_black")

    def _fit_phases(self, rows: Sequence[Text], sight: Sight, room: int) -> list[Text]:
        """The phases in as many lines as there are: first those to come go, then those that have been."""
        if len(rows) <= room:
            return list(rows)
        known = [phase.name for phase in sight.phases]
        names = [*(name for name in known if name not in PHASES), *PHASES]
        reached = [row for row, name in zip(rows, names, strict=True) if name in known]
        return reached[-max(1, room) :] if reached else list(rows[: max(1, room)])

    # -- training and machine

    def _training(self, sight: Sight, width: int) -> list[Text]:
        progress, losses = sight.progress, sight.progress.losses
        if not losses:
            return []
        words = f" loss  {losses[-1]:<10.4g}"
        end = f"  first {progress.first_loss:.4g}, least {progress.least_loss:.4g}"
        room = max(0, min(60, width - len(words) - len(end) - 1))
        row = Text(words, style="bold").append(self.spark(losses, room), style="cyan")
        return [row.append(end, style="dim")]

    def _machine(self, sight: Sight, width: int, narrow: bool = False) -> list[Text]:
        samples = sight.progress.samples
        if not samples:
            return []
        last = samples[-1]
        names = {str(gpu.get("index")): gpu.get("name") for gpu in gpus_of(sight.progress.machine or {})}
        rows = [self._gpu(gpu, names, samples, width) for gpu in gpus_of(last)]
        cpus = number((sight.progress.machine or {}).get("cpus"))
        row = self._load(f" CPU{f' x{cpus:.0f}' if cpus else ''}", [s.get("cpu_percent") for s in samples])
        row.append(f"  memory {share_text(last, 'memory')}")
        more = Text(f"  disk {share_text(last, 'disk')}")
        received, sent = (number(last.get(f"network_{way}_bytes_per_second")) for way in ("in", "out"))
        if received is not None and sent is not None:
            more.append(f"  net {size_text(received)}/s in, {size_text(sent)}/s out")
        if narrow or cell_len(row.plain) + cell_len(more.plain) > width:
            return [*rows, row, Text("    ").append_text(more)]
        return [*rows, row.append_text(more)]

    def _gpu(self, gpu: Record, names: dict[str, object], samples: Sequence[Record], width: int) -> Text:
        index = gpu.get("index", 0)
        loads = [one.get("util_percent") for s in samples for one in gpus_of(s) if one.get("index") == index]
        row = self._load(f" GPU {one_line(str(index))}", loads).append(
            f"  memory {share_text(gpu, 'memory')}"
        )
        for key, unit in (("temperature_celsius", self._celsius), ("power_watts", "W")):
            if (figure := number(gpu.get(key))) is not None:
                row.append(f"  {figure:.0f} {unit}")
        name = f"  {one_line(str(names.get(str(index)) or ''))}"
        return row.append(name, style="dim") if cell_len(row.plain) + len(name) <= width else row

    def _load(self, label: str, told: Sequence[object]) -> Text:
        loads = [number(load) for load in told]
        now = loads[-1] if loads else None
        row = Text(f"{label:<6} ", style="bold").append(f"{now:3.0f} % " if now is not None else "  ? % ")
        return row.append(self.spark([load or 0.0 for load in loads][-8:], 8, top=100.0), style="cyan")

    def spark(self, values: Sequence[float], width: int, top: float | None = None) -> str:
        """A curve one line high: at most `width` characters, each the mean of its share of the values.

        Args:
            top: what the highest character stands for, above 0; None takes the values' own range.
        """
        if not values or width <= 0:
            return ""
        count = min(width, len(values))
        edges = [round(place * len(values) / count) for place in range(count + 1)]
        means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
        low = 0.0 if top is not None else min(means)
        span = (top if top is not None else max(means)) - low
        steps = len(self._levels) - 1
        return "".join(
            self._levels[min(steps, max(0, round((mean - low) / span * steps)))]
            if span > 0
            else self._levels[0]
            for mean in means
        )


def share_text(holder: Record, name: str) -> str:
    """What is used of something, and all of it: `7.2 of 33.0 GB`."""
    used, total = number(holder.get(f"{name}_bytes")), number(holder.get(f"{name}_total_bytes"))
    if used is None or total is None:
        return "?"
    whole = size_text(total)
    scale = next(size for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)) if unit in whole)
    return f"{used / scale:.1f} of {whole}"


def spread(left: Text, right: Text, width: int) -> Text:
    """Two texts at the two ends of a line; the right one only where there is room for it."""
    gap = width - cell_len(left.plain) - cell_len(right.plain)
    return left.append(" " * gap).append_text(right) if gap >= 2 else left


def beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Two columns; the left one is so many cells wide."""
    rows = []
    for place in range(max(len(left), len(right))):
        row = left[place].copy() if place < len(left) else Text()
        row.truncate(width, overflow="ellipsis", pad=True)
        rows.append(row.append_text(right[place]) if place < len(right) else row)
    return rows


def joined(lines: Iterable[Text], width: int, overflow: OverflowMethod) -> Text:
    """Lines, each cut at the terminal's width."""
    cut = []
    for line in lines:
        line = line.copy()
        line.truncate(width, overflow=overflow)
        cut.append(line)
    text = Text("\n", no_wrap=True, overflow="crop").join(cut)
    text.no_wrap = True
    return text
