"""Decide about what instances leave behind: outside switches, volumes, spot requests. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from chronos_ec2.state.clock import from_text
from chronos_ec2.workstation.outcome import nodes_of
from chronos_ec2.workstation.outside_switch import switch_name
from chronos_ec2.workstation.reap_model import Action, Machine, Survey

NEW_GRACE: Final = timedelta(seconds=120)
"""A launch arms its switch a moment after its instance is there, and EC2 shows nothing at once."""


def leftovers(survey: Survey, ended: Collection[str], freed: bool) -> list[Action]:
    """What to do about what is not an instance.

    A run is live while it holds the environment or has an instance; nothing of a live run is touched. When S3
    cannot be asked, any run may be live.

    Args:
        ended: the instances that are being terminated.
        freed: whether the environment is being freed.
    """
    if survey.blind is not None:
        return []
    living = [machine for machine in survey.machines if machine.instance_id not in ended]
    live = {machine.run_id for machine in living}
    if survey.holding is not None and not freed:
        live.add(survey.holding.run_id)
    return [
        *_arm(survey, living),
        *_disarm(survey, live),
        *(
            Action("delete", item.volume_id, f"{item.gb} GB that no instance uses", item.run_id)
            for item in survey.volumes
            if item.run_id not in live and survey.now - item.created_at >= NEW_GRACE
        ),
        *(
            Action("cancel", item.request_id, "a spot request of no live run", item.run_id)
            for item in survey.spot_requests
            if item.run_id not in live and survey.now - item.created_at >= NEW_GRACE
        ),
    ]


def _arm(survey: Survey, living: list[Machine]) -> list[Action]:
    """A launcher that died between the instance and its switch left the run without one."""
    holding = survey.holding
    if holding is None or holding.body is None or survey.switches is None or not survey.wants_switch:
        return []
    run_id = str(holding.run_id)
    owners = [item for item in living if item.run_id == run_id]
    armed = {switch.node for switch in survey.switches if switch.run_id == run_id}
    if len(owners) > nodes_of(holding.body):
        return []
    why = "has no outside switch: its launch ended before it was armed"
    return [
        Action("arm", switch_name(survey.environment, run_id, item.node), f"{item.instance_id} {why}", run_id)
        for item in owners
        if item.node not in armed and survey.now - item.launched_at >= NEW_GRACE
    ]


def _disarm(survey: Survey, live: Collection[str | None]) -> list[Action]:
    return [
        Action("disarm", switch.name, "an outside switch of no live run", switch.run_id)
        for switch in survey.switches or ()
        if switch.run_id not in live
    ]


def due(survey: Survey, machine: Machine) -> datetime | None:
    """When an instance is due: its own tag says, else the state file of the run that it belongs to."""
    if machine.deadline is not None:
        return machine.deadline
    body = survey.holding.body if survey.holding else None
    if body is None or body["run_id"] != machine.run_id:
        return None
    try:
        return from_text(body["control"]["deadline"])
    except ValueError:
        return None
