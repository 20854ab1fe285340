"""The dead man's switch outside the machine: a one-off EventBridge schedule that terminates a run's instance.

`shell/lib/outside_switch.sh` arms it at launch; this is what `invoke reap` does with it: list it, arm it
late, delete it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.s3 import error_code, translate

GRACE: Final = timedelta(minutes=5)
"""After the deadline: the guest's own switch comes first."""
TARGET: Final = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
_NAME: Final = re.compile(r"chronos-([a-z][a-z0-9-]{0,31})-(\d{4}-\d\d-\d\d-\d{6})")


class SwitchTrouble(ChronosError):
    """The outside switches cannot be seen or set."""


@dataclass(frozen=True, slots=True)
class Switch:
    """An outside switch that is armed."""

    name: str
    environment: str
    run_id: str


def switch_name(environment: str, run_id: str) -> str:
    """The name of a run's schedule, 64 characters at most."""
    return f"chronos-{environment}-{run_id}"


def switch_request(
    group: str, role_arn: str, environment: str, run_id: str, instance_id: str, deadline: datetime
) -> dict[str, Any]:
    """The parameters of CreateSchedule that arm the switch of a run's instance."""
    return {
        "Name": switch_name(environment, run_id),
        "GroupName": group,
        "Description": f"Terminates {instance_id} after the deadline of its run",
        "ScheduleExpression": f"at({(deadline + GRACE).astimezone(UTC):%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": TARGET,
            "RoleArn": role_arn,
            "Input": json.dumps({"InstanceIds": [instance_id]}, separators=(",", ":")),
            "RetryPolicy": {"MaximumRetryAttempts": 10, "MaximumEventAgeInSeconds": 3600},
        },
    }


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
        found = [_NAME.fullmatch(item["Name"]) for page in pages for item in page["Schedules"]]
        return [Switch(match[0], match[1], match[2]) for match in found if match]

    def arm(self, environment: str, run_id: str, instance_id: str, deadline: datetime) -> None:
        """Arm a run's switch; one that has been armed meanwhile is left as it is.

        Raises:
            SwitchTrouble: the service refused.
        """
        request = switch_request(self._group, self._role_arn, environment, run_id, instance_id, deadline)
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
