"""What the things that `invoke reap` finds cost while nobody looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chronos_ec2.workstation.prices_cache import Rate
from chronos_ec2.workstation.reap_model import Action, Survey

DAYS_A_MONTH = 30
"""EC2 bills a disk by the month of 720 hours."""


def usd_a_day(survey: Survey, actions: Sequence[Action], rates: Mapping[str, Rate]) -> float | None:
    """US dollars a day that go on until the planned actions are carried out; None where a rate is not known.

    Args:
        rates: by name, as in prices.py. Spot machines are counted at the on-demand price, their highest.
    """
    going = {action.what for action in actions if action.kind in ("terminate", "delete")}
    machines = [item for item in survey.machines if item.instance_id in going]
    disk_gb = sum(item.gb for item in survey.volumes if item.volume_id in going)
    hourly = [f"compute:{item.instance_type}" for item in machines] + ["address"] * len(machines)
    names = {*hourly, *(["disk"] if disk_gb else [])}
    if not names <= set(rates):
        return None
    disk = rates["disk"].usd * disk_gb / DAYS_A_MONTH if disk_gb else 0.0
    return 24 * sum(rates[name].usd for name in hourly) + disk
