"""What one look at a run saw, and the words for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from chronos_ec2.report.run_files import moment, number
from chronos_ec2.state.clock import to_text
from chronos_ec2.words import money_text, one_line, span_text
from chronos_ec2.workstation.next_step import next_command
from chronos_ec2.workstation.run_cost import cost_parts_text, cost_text, total_of
from chronos_ec2.workstation.run_progress import Progress
from chronos_ec2.workstation.run_record import RunRecord


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
            known = number(item.get("seconds"))
            outcome = one_line(str(item.get("outcome") or ("now" if known is None else "ok")))
            found.append(Phase(one_line(item["name"]), moment(item.get("started_at")), known, outcome))
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
        progress: how far it has come, for who asks the observer for it.
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
    deadline: datetime | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.outcome is not None or self.word == "idle"

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
            "progress": self.progress.to_json(),
        }


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
    late = sight.deadline is not None and sight.seen_at >= sight.deadline
    return f"{so_far} so far" + ("" if later is None or late else f", {money_text(later)} at the deadline")


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
        yield f"  error: {record.error}"
    if (cost := cost_parts_text(record.cost_usd)) is not None:
        yield f"  cost: {cost}"
    if record.usage is not None:
        yield f"  time: {record.usage.sentence}"
    if sight.word != "idle" and sight.detail:
        yield f"  note: {one_line(sight.detail)}"
    if record.wql is not None:
        beside = f" (seasonal naive {record.baseline_wql:.4f})" if record.baseline_wql is not None else ""
        yield f"  WQL: {record.wql:.4f}{beside}"
    yield f"  files: {sight.results}"
    if record.resume_from:
        where = "" if record.resumed_from_step is None else f"step {record.resumed_from_step} of "
        yield f"  went on from: {where}run {record.resume_from}"
    yield f"  next: {next_command(record)}"
