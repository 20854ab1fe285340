"""Placement groups.

Real EC2: a launch into a placement group names it; a name that the account does not have in the region is
refused with 400 InvalidPlacementGroup.Unknown before anything starts, and the instances show the group from
then on. moto knows no placement groups and ignores the name. Here a CloudFormation stack makes them
(stack_kinds.py); where a machine stands has no meaning on one computer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.responses.instances import InstanceResponse

from chronos_ec2.local_cloud.gaps import around

GROUPS: Final[set[tuple[str, str, str]]] = set()
"""Account, region and name of each."""
_ASKED: Final[ContextVar[str]] = ContextVar("placement group of the launch", default="")


class UnknownPlacementGroup(EC2ClientError):
    """The account has no such group in this region."""

    def __init__(self, name: str) -> None:
        super().__init__("InvalidPlacementGroup.Unknown", f"The Placement Group '{name}' is unknown.")


def install() -> None:
    """Make RunInstances look at its placement group; before the instance host, which boots what it makes."""
    around(InstanceResponse, "run_instances", _checked)
    around(InstanceBackend, "run_instances", _placed)


def _checked(run_instances: Callable[..., ActionResult]) -> Callable[..., ActionResult]:
    @functools.wraps(run_instances)
    def run_where_asked(response: Any) -> ActionResult:
        name = str(response._get_param("Placement.GroupName") or "")
        if name and (response.current_account, response.region, name) not in GROUPS:
            raise UnknownPlacementGroup(name)
        before = _ASKED.set(name)
        try:
            return run_instances(response)
        finally:
            _ASKED.reset(before)

    return run_where_asked


def _placed(run_instances: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_instances)
    def run_and_place(backend: Any, *args: Any, **kwargs: Any) -> Any:
        reservation = run_instances(backend, *args, **kwargs)
        for instance in reservation.instances:
            instance.placement.group_name = _ASKED.get()
        return reservation

    return run_and_place
