"""What a run's billed seconds went into: how many trained, and what the others were spent on.

A run writes down when it came how far, its `timeline` (`shell/lib/timeline.sh`): in run.json once it has
ended, in the state file's `control` while it goes on. The time between two milestones belongs to the later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from chronos_ec2.state.clock import from_milliseconds, from_text
from chronos_ec2.words import span_text

SPENT_ON: Final[Mapping[str, str]] = {
    "launch_accepted": "launch",
    "instance_running": "start of the machine",
    "user_data_started": "boot",
    "environment_ready": "environment",
    "preflight_passed": "preflight",
    "data_ready": "data",
    "first_step": "start of training",
    "last_step": "training",
    "results_safe": "results",
    "power_off": "clean-up",
}
"""Each milestone, in order, and what leads to it."""
TRAINED: Final = "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Where a run's billed seconds went.

    Attributes:
        billed_seconds: what EC2 bills of it, up to now while it goes on.
        trained_seconds: from the beginning of its first step to the end of its last.
        trained_percent: their share of the billed ones, 0 to 100.
        waste_seconds: the others by name, the largest first.
    """

    billed_seconds: int
    trained_seconds: float
    trained_percent: float
    waste_seconds: Mapping[str, float]

    @property
    def text(self) -> str:
        """For a person: `billed 68 s, trained 9 s (13 %)`."""
        return (
            f"billed {span_text(self.billed_seconds)}, trained {span_text(self.trained_seconds)} "
            f"({self.trained_percent:.0f} %)"
        )

    @property
    def sentence(self) -> str:
        """The text with the largest waste behind it."""
        return self.text + (f"; largest waste: {self.largest_waste}" if self.largest_waste else "")

    @property
    def account(self) -> str:
        """The text with all of the waste behind it, but for what took less than a second."""
        parts = ((name, seconds) for name, seconds in self.waste_seconds.items() if seconds >= 1)
        waste = ", ".join(f"{name} {span_text(seconds)}" for name, seconds in parts)
        return self.text + (f"; the rest: {waste}" if waste else "")

    @property
    def largest_waste(self) -> str | None:
        """For a person: `environment, 17 s`; None where nothing was wasted that could be told."""
        return next((f"{name}, {span_text(seconds)}" for name, seconds in self.waste_seconds.items()), None)


def usage_of(
    record: Mapping[str, Any], billed: int | None, now: datetime, live: Mapping[str, Any] | None = None
) -> Usage | None:
    """Where a run's billed seconds went.

    Args:
        record: its run.json.
        billed: the seconds that EC2 bills of it, up to now while it goes on; None where nobody knows.
        now: up to when a run without an end is counted.
        live: its state file's body, while it holds the environment.

    Returns:
        None when it has no timeline (it never came to a machine, or the machine never told), or no bill.
    """
    ended = record.get("ended_at") is not None
    timeline = _timeline(record) or _timeline((live or {}).get("control"))
    if not timeline or not billed:
        return None
    spans: dict[str, float] = {}
    for name, span in _spans(timeline, _end(record, timeline) if ended else now):
        spans[name] = spans.get(name, 0.0) + round(span.total_seconds(), 3)
    trained = spans.pop(TRAINED, 0.0)
    wasted = sorted(((n, s) for n, s in spans.items() if s > 0), key=lambda item: -item[1])
    return Usage(
        billed_seconds=billed,
        trained_seconds=trained,
        trained_percent=round(100 * min(1.0, trained / billed), 1),
        waste_seconds=dict(wasted),
    )


def _timeline(holder: object) -> dict[str, datetime]:
    """The milestones that can be read, in order of the list and not of their times."""
    written = holder.get("timeline") if isinstance(holder, Mapping) else None
    found: dict[str, datetime] = {}
    if not isinstance(written, Mapping):
        return found
    for name in SPENT_ON:
        try:
            found[name] = from_milliseconds(str(written.get(name)))
        except ValueError:
            continue
    return found


def _end(record: Mapping[str, Any], timeline: Mapping[str, datetime]) -> datetime:
    """Until when a run that has ended lasted: one that could not say it itself, until its record's end."""
    try:
        recorded = from_text(str(record.get("ended_at")))
    except ValueError:
        recorded = max(timeline.values())
    return timeline.get("power_off", recorded)


def _spans(timeline: Mapping[str, datetime], end: datetime) -> Iterator[tuple[str, timedelta]]:
    """What was spent on what.

    Work that goes on side by side counts once: for the milestone that comes first in the list. When
    milestones are missing, the run ended in the middle of what leads to the first of them.
    """
    names = list(SPENT_ON)
    reached = min(timeline.values())
    wanted = 0
    for place, name in enumerate(names):
        if name in timeline:
            yield SPENT_ON[names[min(wanted, place)]], max(timedelta(0), timeline[name] - reached)
            reached, wanted = max(reached, timeline[name]), place + 1
    if wanted < len(names):
        yield SPENT_ON[names[wanted]], max(timedelta(0), end - reached)
