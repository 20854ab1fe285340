"""How a watched run is shown: a live panel on a terminal, a line a change elsewhere, or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.next_step import next_command
from chronos_ec2.workstation.run_cost import cost_parts_text, cost_text, total_of
from chronos_ec2.workstation.runs import RunRecord
from chronos_ec2.workstation.words import money_text, span_text

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

_CONTROL: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS: Final = {
    "stalled": "yellow",
    "gone": "red",
    "orphaned": "red",
    "interrupted": "yellow",
    "unknown": "yellow",
    "corrupt": "red",
}


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase's time: `seconds` is None while it lasts."""

    name: str
    started_at: datetime | None
    seconds: float | None = None
    outcome: str = "now"

    def ended(self, at: datetime) -> Phase:
        """The phase, ended at a moment unless it had ended before."""
        if self.seconds is not None or self.started_at is None:
            return self
        return replace(self, seconds=(at - self.started_at).total_seconds(), outcome="ok")


def phases_from(items: object) -> tuple[Phase, ...]:
    """The phases that a run has written down, as far as they can be read."""
    found = []
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            seconds = item.get("seconds")
            known = float(seconds) if isinstance(seconds, int | float) else None
            found.append(Phase(item["name"], None, known, str(item.get("outcome", "ok"))))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at a run saw.

    Attributes:
        word: how it goes in a word: idle, launching, booting, syncing, training, saving, cleaning up,
            failing, stopping, stalled, ending, orphaned, unknown, corrupt, gone, or the outcome.
        outcome: None until the run has ended.
        detail: what EC2 says, or what to do.
        cost_at_deadline_usd: what the run costs if it goes on until its deadline.
        results: where the run's files lie.
    """

    environment: str
    run_id: str | None
    word: str
    seen_at: datetime
    status: str | None = None
    current_step: str | None = None
    heartbeat_age_seconds: float | None = None
    instance_id: str | None = None
    outcome: str | None = None
    detail: str | None = None
    record: RunRecord | None = None
    phases: tuple[Phase, ...] = ()
    results: str | None = None
    log_tail: tuple[str, ...] = ()
    cost_at_deadline_usd: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The sight for `--json`; the same keys at every look."""
        record = self.record
        return {
            "environment": self.environment,
            "run_id": self.run_id,
            "status": self.status,
            "current_step": self.current_step,
            "heartbeat_age_seconds": self.heartbeat_age_seconds,
            "word": self.word,
            "instance_id": self.instance_id,
            "outcome": self.outcome,
            "failed_step": record.failed_step if record else None,
            "error": record.error if record else None,
            "started_at": to_text(record.started_at) if record and record.started_at else None,
            "elapsed_seconds": record.duration_seconds if record else None,
            "cost_usd": total_of(record.cost_usd) if record else None,
            "cost_at_deadline_usd": self.cost_at_deadline_usd,
            "usage": asdict(record.usage) if record and record.usage else None,
            "detail": self.detail,
        }


class View(Protocol):
    """What `watch` shows sights on."""

    wants_log: bool

    def show(self, sight: Sight) -> None:
        """Show what one look saw."""

    def note(self, text: str) -> None:
        """Say something that is not the run's."""


def age_text(sight: Sight) -> str:
    """The heartbeat's age in words."""
    if sight.heartbeat_age_seconds is None:
        return ""
    return f"heartbeat {span_text(sight.heartbeat_age_seconds)} ago"


def cost_so_far(sight: Sight) -> str:
    """The dollars so far and at the deadline in words; nothing where they are not known."""
    so_far = cost_text(sight.record.cost_usd) if sight.record else None
    if so_far is None or sight.outcome is not None:
        return ""
    later = sight.cost_at_deadline_usd
    return f"{so_far} so far" + (f", {money_text(later)} at the deadline" if later is not None else "")


def summary(sight: Sight) -> Iterator[str]:
    """The lines that tell how a run ended, and what to do next."""
    record = sight.record
    if sight.word == "idle":
        yield f"no run is active in {sight.environment}" + ("" if record else f": {sight.detail}")
    if record is None:
        return
    lasted = f" after {span_text(record.duration_seconds)}" if record.duration_seconds is not None else ""
    where = f" at {record.failed_step}" if record.failed_step else ""
    last = "last run" if sight.word == "idle" else "run"
    yield f"{last} {record.run_id} {record.outcome}{where}{lasted}"
    if record.error:
        yield f"  error: {printable(record.error)}"
    if (cost := cost_parts_text(record.cost_usd)) is not None:
        yield f"  cost: {cost}"
    if record.usage is not None:
        yield f"  time: {record.usage.sentence}"
    if sight.word != "idle" and sight.detail:
        yield f"  note: {sight.detail}"
    if record.wql is not None:
        beside = f" (seasonal naive {record.baseline_wql:.4f})" if record.baseline_wql is not None else ""
        yield f"  WQL: {record.wql:.4f}{beside}"
    yield f"  files: {sight.results}"
    if record.resume_from:
        where = "" if record.resumed_from_step is None else f"step {record.resumed_from_step} of "
        yield f"  went on from: {where}run {record.resume_from}"
    yield f"  next: {next_command(record)}"


def printable(text: str) -> str:
    """Text from a log without what could steer the terminal."""
    return _CONTROL.sub("", text)


class PlainView:
    """One line a change; the end in a few lines."""

    wants_log = False

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: tuple[object, ...] | None = None

    def show(self, sight: Sight) -> None:
        """Print the sight if it differs from the last one."""
        seen = (sight.status, sight.current_step, sight.word, sight.instance_id, sight.detail)
        if sight.outcome is None and sight.word != "idle":
            if seen != self._shown:
                self._say("  ".join(filter(None, self._cells(sight))))
        else:
            for line in (*map(printable, sight.log_tail), *summary(sight)):
                self._say(line)
        self._shown = seen

    def note(self, text: str) -> None:
        """Print a line of talk."""
        self._say(f"-- {text}")

    def _cells(self, sight: Sight) -> Iterable[str]:
        status = f"{sight.status:<15}{sight.current_step or '-':<16}" if sight.status else ""
        return (
            f"{sight.seen_at:%H:%M:%SZ}",
            sight.run_id or sight.environment,
            status,
            f"{sight.word:<11}",
            age_text(sight),
            cost_so_far(sight),
            printable(sight.detail or ""),
        )

    def _say(self, text: str) -> None:
        self._out.write(text.rstrip() + "\n")
        self._out.flush()


class JsonView:
    """One JSON object a change; notes are left out, as they are not data."""

    wants_log = False

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: tuple[object, ...] | None = None

    def show(self, sight: Sight) -> None:
        """Print the sight's object if it differs from the last one."""
        seen = (sight.status, sight.current_step, sight.word, sight.instance_id, sight.outcome)
        if seen != self._shown:
            self._out.write(json.dumps(sight.to_json()) + "\n")
            self._out.flush()
        self._shown = seen

    def note(self, text: str) -> None:
        """Say nothing: the stream is for programs."""


class LiveView:
    """A panel that is drawn anew at every look; the end stays on the screen as plain lines."""

    wants_log = True

    def __init__(self, live: Live, console: Console) -> None:
        self._live = live
        self._console = console

    def show(self, sight: Sight) -> None:
        """Draw the panel, or the end."""
        if sight.outcome is None and sight.word != "idle":
            self._live.update(_panel(sight), refresh=True)
            return
        self._live.update(_panel(sight) if sight.word != "idle" else "", refresh=True)
        self._live.stop()
        for line in summary(sight):
            self._console.print(line, markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Print a line above the panel."""
        self._console.print(f"-- {text}", markup=False, highlight=False)


def _panel(sight: Sight) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    record = sight.record
    lasted = span_text(record.duration_seconds) if record and record.duration_seconds is not None else ""
    machine = f"{sight.instance_id or 'no instance'} {(record and record.instance_type) or ''}"
    head = Text(f"{sight.environment}  {sight.run_id}  {machine}  {lasted}", style="bold")
    now = Text("  ".join(filter(None, (sight.status, sight.current_step, age_text(sight)))) + "  ")
    now.append(sight.word, style=_COLOURS.get(sight.word, "green"))
    phases = Table(box=None, show_header=False)
    for phase in sight.phases:
        spent = phase.ended(sight.seen_at).seconds
        mark = {"ok": "done", "now": "..."}.get(phase.outcome, phase.outcome)
        phases.add_row(Text(phase.name), Text(span_text(spent) if spent is not None else "-"), Text(mark))
    money = [Text(cost_so_far(sight))] if cost_so_far(sight) else []
    if record is not None and record.usage is not None:
        money.append(Text(record.usage.sentence))
    detail = [Text(printable(sight.detail), style="yellow")] if sight.detail else []
    log = [Text(printable(line), style="dim", no_wrap=True, overflow="ellipsis") for line in sight.log_tail]
    return Group(head, phases, now, *money, *detail, *log)


@contextmanager
def make_view(out: TextIO, *, as_json: bool, follow: bool) -> Iterator[View]:
    """The view that fits: JSON when asked for, a live panel on a terminal, else lines."""
    if as_json:
        yield JsonView(out)
    elif not (follow and out.isatty()):
        yield PlainView(out)
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=out)
        with Live(console=console, auto_refresh=False) as live:
            yield LiveView(live, console)
