"""Decide what to end: instances without an owner, claims without an instance, what both leave behind.

Pure: reap_look.py gathers what there is, `decide` says what to do about it, reap.py does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from chronos_ec2.state.clock import from_text, to_text
from chronos_ec2.workstation.outcome import nodes_of
from chronos_ec2.workstation.reap_leftovers import due, leftovers
from chronos_ec2.workstation.reap_model import Action, Holding, Machine, Survey

__all__ = ["OWNERLESS_GRACE", "STAGED_GRACE", "Action", "Holding", "Machine", "Survey", "decide"]

OWNERLESS_GRACE: Final = timedelta(seconds=120)
"""A run frees its environment a little before its machine is gone, and claims it before there is one."""
STAGED_GRACE: Final = timedelta(hours=1)


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
    ended = {action.what for action in actions if action.kind == "terminate"}
    if survey.holding is not None:
        owners = {item.instance_id for item in survey.machines if _may_own(survey.holding, item)}
        ending = bool(owners) and owners <= ended
        actions += _about_holding(survey, survey.holding, ending, claim_patience)
    freed = any(action.kind == "free" for action in actions)
    actions += leftovers(survey, ended, freed)
    actions += [
        Action("drop", key, "a state that was staged and never published")
        for key, written_at in survey.staged
        if survey.now - written_at > STAGED_GRACE
    ]
    return actions + [Action("leave", what, why) for what, why in survey.unseen]


def _about_machine(survey: Survey, machine: Machine, stale_after: timedelta) -> Action | None:
    name, holding = machine.instance_id, survey.holding
    deadline = due(survey, machine)
    if deadline is not None and survey.now > deadline:
        return Action("terminate", name, f"is past its deadline, {to_text(deadline)}", machine.run_id)
    if survey.blind is not None:
        return Action("leave", name, f"who holds {survey.environment} is not known: {survey.blind}")
    if holding is not None and holding.body is None:
        return Action("leave", name, "the state file is corrupt, so its owner is not known")
    if not _is_owner(holding, machine):
        if survey.now - machine.launched_at < OWNERLESS_GRACE:
            return Action("leave", name, "belongs to no live run, but has only just started")
        return Action("terminate", name, "belongs to no live run", machine.run_id)
    assert holding is not None and holding.body is not None
    why = _silent(holding.body, survey.now, stale_after) or _headless(holding)
    return Action("terminate", name, why, machine.run_id) if why else None


def _is_owner(holding: Holding | None, machine: Machine) -> bool:
    if holding is None or holding.body is None:
        return False
    if holding.run_id != machine.run_id:
        return False
    nodes, named = nodes_of(holding.body), holding.body["control"].get("instance_ids", [])
    if nodes > 1:
        return len(named) < nodes or machine.instance_id in named
    return holding.body["instance_id"] in (None, machine.instance_id)


def _may_own(holding: Holding, machine: Machine) -> bool:
    """Whether the environment cannot be freed while this instance lives."""
    return holding.body is None or _is_owner(holding, machine)


def _silent(body: Mapping[str, Any], now: datetime, stale_after: timedelta) -> str | None:
    heard = _moment(body["timestamps"]["last_update"])
    if heard is not None and now - heard > stale_after:
        return f"has given no sign of life since {body['timestamps']['last_update']}"
    return None


def _headless(holding: Holding) -> str | None:
    """Why a run of several machines cannot go on: only its first node keeps its state."""
    assert holding.body is not None
    first = holding.body["instance_id"]
    if nodes_of(holding.body) > 1 and holding.fate is not None and first in holding.fate.ended_ids:
        return f"trains with {first}, which is gone"
    return None


def _about_holding(survey: Survey, holding: Holding, ending: bool, claim_patience: timedelta) -> list[Action]:
    name = f"{survey.environment}/system-state.json"
    if ending:
        return [Action("free", name, "its instance is being ended", holding.run_id)]
    if holding.body is None:
        if survey.machines:
            return [Action("leave", name, f"{holding.problem}; end the run and clear it with invoke kill")]
        return [Action("free", name, f"{holding.problem}; no instance is left")]
    run_id = str(holding.run_id)
    fate = holding.fate
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
