"""The run that holds the environment, and what nobody owns."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from chronos_ec2.errors import StateUnreadable
from chronos_ec2.state.clock import from_text
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.outcome import instance_fate
from chronos_ec2.workstation.reap import Reaper
from chronos_ec2.workstation.reap_plan import Action
from chronos_ec2.workstation.run_ids import active_state
from chronos_ec2.workstation.words import span_text


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


def reap_actions(facts: Facts) -> Sequence[Action]:
    """What `invoke reap` would do."""
    settings = facts.settings
    facts.identity()
    reaper = Reaper(
        facts.client("s3"),
        facts.client("ec2"),
        facts.bucket,
        settings.environment,
        stale_after=timedelta(minutes=settings.stale_minutes),
        claim_patience=timedelta(seconds=settings.claim_patience_seconds),
        out=io.StringIO(),
        now=facts.now,
    )
    return reaper.plan()[1]


def leftovers(facts: Facts, plan: Callable[[Facts], Sequence[Action]] = reap_actions) -> list[Finding]:
    """What runs or lies about and belongs to nobody."""
    actions = [action for action in plan(facts) if action.kind != "leave"]
    if not actions:
        return [ok("nothing that nobody owns")]
    instances = [action for action in actions if action.kind == "terminate"]
    shown = instances or actions
    more = f", and {len(actions) - 1} more" if len(actions) > 1 else ""
    text = f"{shown[0].what} {shown[0].why}{more}"
    advice = f"invoke reap --env {facts.settings.environment}"
    return [error(f"{text}: it bills", advice) if instances else warning(text, advice)]
