"""Decide what to end: instances without an owner, claims without an instance, records without an end.

Pure: `survey` in reap.py gathers what there is, `decide` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from chronos_ec2.state.clock import from_text
from chronos_ec2.workstation.outcome import Fate

OWNERLESS_GRACE: Final = timedelta(seconds=120)
"""A run frees its environment a little before its machine is gone, and claims it before there is one."""
STAGED_GRACE: Final = timedelta(hours=1)

Kind = Literal["terminate", "free", "drop", "leave"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A live instance with the project's tags."""

    instance_id: str
    run_id: str | None
    launched_at: datetime


@dataclass(frozen=True, slots=True)
class Holding:
    """The state file as it was found.

    Attributes:
        body: what it says, None when it is corrupt.
        etag: what a deletion must match.
        problem: why it is corrupt.
        fate: what EC2 says of the holder's instance; None for a corrupt file.
    """

    body: Mapping[str, Any] | None
    etag: str
    problem: str | None = None
    fate: Fate | None = None

    @property
    def run_id(self) -> str | None:
        """The holder, if the file says."""
        return None if self.body is None else str(self.body["run_id"])


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is in one environment.

    Attributes:
        staged: keys of bodies that writers staged, with the time they were written.
    """

    environment: str
    now: datetime
    holding: Holding | None
    machines: Sequence[Machine]
    staged: Sequence[tuple[str, datetime]]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do.

    Attributes:
        kind: `terminate` an instance, `free` the environment, `drop` a staged body, or `leave` and say why.
        what: the instance's id, the run's id, or the key.
        why: the reason, for a person and for the record.
        run_id: whose record gets its end.
    """

    kind: Kind
    what: str
    why: str
    run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.kind:<9} {self.what}: {self.why}"


def decide(survey: Survey, *, stale_after: timedelta, claim_patience: timedelta) -> list[Action]:
    """What `invoke reap` does about an environment.

    Args:
        stale_after: how long a run may go without a sign of life.
        claim_patience: how long a claim may have no instance.
    """
    actions = [
        action
        for machine in survey.machines
        if (action := _about_machine(survey, machine, stale_after)) is not None
    ]
    if survey.holding is not None:
        ended = {action.what for action in actions if action.kind == "terminate"}
        owners = {item.instance_id for item in survey.machines if _is_owner(survey.holding, item)}
        ending = bool(owners) and owners <= ended
        actions += _about_holding(survey, survey.holding, ending, claim_patience)
    actions += [
        Action("drop", key, "a state that was staged and never published")
        for key, written_at in survey.staged
        if survey.now - written_at > STAGED_GRACE
    ]
    return actions


def _about_machine(survey: Survey, machine: Machine, stale_after: timedelta) -> Action | None:
    holding = survey.holding
    if holding is not None and holding.body is None:
        return Action("leave", machine.instance_id, "the state file is corrupt, so its owner is not known")
    if not _is_owner(holding, machine):
        if survey.now - machine.launched_at < OWNERLESS_GRACE:
            return Action("leave", machine.instance_id, "belongs to no live run, but has only just started")
        return Action("terminate", machine.instance_id, "belongs to no live run", machine.run_id)
    assert holding is not None and holding.body is not None
    why = _overdue(holding.body, survey.now, stale_after)
    return Action("terminate", machine.instance_id, why, machine.run_id) if why else None


def _is_owner(holding: Holding | None, machine: Machine) -> bool:
    if holding is None or holding.body is None:
        return False
    return holding.run_id == machine.run_id and holding.body["instance_id"] in (None, machine.instance_id)


def _overdue(body: Mapping[str, Any], now: datetime, stale_after: timedelta) -> str | None:
    deadline = _moment(body["control"]["deadline"])
    if deadline is not None and now > deadline:
        return f"is past its deadline, {body['control']['deadline']}"
    heard = _moment(body["timestamps"]["last_update"])
    if heard is not None and now - heard > stale_after:
        return f"has given no sign of life since {body['timestamps']['last_update']}"
    return None


def _about_holding(survey: Survey, holding: Holding, ending: bool, claim_patience: timedelta) -> list[Action]:
    name = f"{survey.environment}/system-state.json"
    if holding.body is None:
        if survey.machines:
            return [Action("leave", name, f"{holding.problem}; `invoke kill` ends the run and clears it")]
        return [Action("free", name, f"{holding.problem}; no instance is left")]
    run_id = str(holding.run_id)
    fate = holding.fate
    if ending:
        return [Action("free", name, "its instance is being ended", run_id)]
    if fate is None or fate.state == "unknown":
        words = fate.words if fate else "EC2 was not asked"
        return [Action("leave", name, f"run {run_id} holds it and nothing is proven: {words}", run_id)]
    if fate.state == "running":
        return []
    claimed = _moment(holding.body["timestamps"]["last_update"])
    young = claimed is not None and survey.now - claimed < claim_patience
    if holding.body["instance_id"] is None and young:
        return [Action("leave", name, f"run {run_id} has just claimed it and may still be launching", run_id)]
    return [Action("free", name, f"run {run_id} holds it, and {fate.words}", run_id)]


def _moment(text: str) -> datetime | None:
    try:
        return from_text(text)
    except ValueError:
        return None
