"""The run that holds the environment, and what nobody owns."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from typing import Final

from chronos_ec2.errors import StateUnreadable
from chronos_ec2.state.clock import from_text
from chronos_ec2.words import span_text
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.outcome import instance_fate, nodes_of
from chronos_ec2.workstation.reap import Reaper
from chronos_ec2.workstation.run_ids import active_state
from chronos_ec2.workstation.switch_service import OutsideSwitches

_BILLING: Final = ("terminate", "delete", "cancel")


def holder(facts: Facts) -> list[Finding]:
    """Whether the environment is free for a launch."""
    environment = facts.settings.environment
    facts.identity()
    try:
        state = active_state(facts.client("s3"), facts.bucket, environment)
    except StateUnreadable as problem:
        return [error(f"the state file cannot be read: {problem}", f"invoke kill --env {environment}")]
    if state is None:
        return [ok(f"no run holds {environment}")]
    started = _moment(state["timestamps"]["start"])
    fate = instance_fate(
        facts.client("ec2"),
        environment,
        state["run_id"],
        state["instance_id"],
        nodes=nodes_of(state),
        started_at=started,
        now=facts.now,
    )
    age = f", started {span_text((facts.now() - started).total_seconds())} ago" if started else ""
    words = f"run {state['run_id']} ({state['status']}{age}) holds {environment}"
    if fate.state == "gone":
        return [warning(f"{words}, but {fate.words}", f"invoke reap --env {environment}")]
    return [
        warning(
            f"{words}: a launch would be refused",
            f"invoke watch --env {environment} (or invoke kill, which ends it)",
        )
    ]


def _moment(text: str) -> datetime | None:
    try:
        return from_text(text)
    except ValueError:
        return None


def leftovers(facts: Facts) -> list[Finding]:
    """What runs or lies about and belongs to nobody, as `invoke reap` sees it.

    Every run leaves its outside switch, which costs nothing and deletes itself after the deadline.
    """
    environment = facts.settings.environment
    survey, actions = _reaper(facts).plan()
    todo = [action for action in actions if action.kind not in ("leave", "disarm")]
    if not todo and survey.unseen:
        what, why = survey.unseen[0]
        return [warning(f"{what}: {why}", f"invoke reap --env {environment} --dry-run (to see the rest)")]
    if not todo:
        return [ok("nothing that nobody owns")]
    billing = [action for action in todo if action.kind in _BILLING]
    first = (billing or todo)[0]
    text = f"{first.what}: {first.why}" + (f", and {len(todo) - 1} more" if len(todo) > 1 else "")
    advice = f"invoke reap --env {environment}"
    return [error(f"{text}; it bills", advice) if billing else warning(text, advice)]


def _reaper(facts: Facts) -> Reaper:
    settings = facts.settings
    facts.identity()
    group, role = facts.exports().get("ScheduleGroupName"), facts.exports().get("SchedulerRoleArn")
    switches = OutsideSwitches(facts.client("scheduler"), group, role) if group and role else None
    return Reaper(
        facts.client("s3"),
        facts.client("ec2"),
        facts.bucket,
        settings.environment,
        stale_after=timedelta(minutes=settings.stale_minutes),
        claim_patience=timedelta(seconds=settings.claim_patience_seconds),
        out=io.StringIO(),
        switches=switches,
        region=settings.region,
        now=facts.now,
    )
