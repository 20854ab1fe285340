"""The outside switches as EventBridge Scheduler has them: listed, armed late, deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.outside_switch import Switch, parse_switch_name, switch_request
from chronos_ec2.workstation.s3 import error_code, translate


class SwitchTrouble(ChronosError):
    """The outside switches cannot be seen or set."""


class OutsideSwitches:
    """The switches of one account and region.

    Args:
        client: Boto3's EventBridge Scheduler client.
        group, role_arn: where the stack wants schedules, and as whom they act.
    """

    def __init__(self, client: Any, group: str, role_arn: str) -> None:
        self._client = client
        self._group = group
        self._role_arn = role_arn

    def armed(self) -> list[Switch]:
        """Every switch that is armed; schedules with other names are nobody's business here.

        Raises:
            SwitchTrouble: the schedules cannot be listed.
        """
        try:
            pages = list(self._client.get_paginator("list_schedules").paginate(GroupName=self._group))
        except (ClientError, BotoCoreError) as error:
            raise SwitchTrouble(f"the outside switches cannot be listed: {_words(error)}") from error
        found = (parse_switch_name(item["Name"]) for page in pages for item in page["Schedules"])
        return [switch for switch in found if switch is not None]

    def arm(self, environment: str, run_id: str, instance_id: str, deadline: datetime, node: int = 0) -> None:
        """Arm the switch of a run's node; one that has been armed meanwhile is left as it is.

        Raises:
            SwitchTrouble: the service refused.
        """
        request = switch_request(
            self._group, self._role_arn, environment, run_id, instance_id, deadline, node
        )
        try:
            self._client.create_schedule(**request)
        except (ClientError, BotoCoreError) as error:
            if _code(error) != "ConflictException":
                raise SwitchTrouble(
                    f"the outside switch of run {run_id} cannot be armed: {_words(error)}"
                ) from error

    def disarm(self, name: str) -> None:
        """Delete a switch; one that is gone is fine.

        Raises:
            SwitchTrouble: the service refused.
        """
        try:
            self._client.delete_schedule(Name=name, GroupName=self._group)
        except (ClientError, BotoCoreError) as error:
            if _code(error) != "ResourceNotFoundException":
                raise SwitchTrouble(f"schedule {name} cannot be deleted: {_words(error)}") from error


def _code(error: ClientError | BotoCoreError) -> str:
    return error_code(error) if isinstance(error, ClientError) else ""


def _words(error: ClientError | BotoCoreError) -> str:
    return str(translate(error, "EventBridge Scheduler"))
