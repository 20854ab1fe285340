"""The dead man's switch outside the machine: a one-off EventBridge schedule that terminates a run's instance.

`shell/lib/outside_switch.sh` arms it at launch, `switch_service.py` lists, arms and deletes it for reap.
Its name and its request are the same in both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

GRACE: Final = timedelta(minutes=5)
"""After the deadline: the guest's own switch comes first."""
TARGET: Final = "arn:{partition}:scheduler:::aws-sdk:ec2:terminateInstances"
"""What it calls; the partition (aws, aws-cn, aws-us-gov) is that of the stack."""
_NAME: Final = re.compile(r"chronos-([a-z][a-z0-9-]{0,31})-(\d{4}-\d\d-\d\d-\d{6})(?:-(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class Switch:
    """An outside switch that is armed, for one node of a run."""

    name: str
    environment: str
    run_id: str
    node: int = 0


def switch_name(environment: str, run_id: str, node: int = 0) -> str:
    """The name of the schedule of a run's node, 64 characters at most."""
    return f"chronos-{environment}-{run_id}" + (f"-{node}" if node else "")


def switch_request(
    group: str,
    role_arn: str,
    environment: str,
    run_id: str,
    instance_id: str,
    deadline: datetime,
    node: int = 0,
) -> dict[str, Any]:
    """The parameters of CreateSchedule that arm the switch of a run's instance."""
    return {
        "Name": switch_name(environment, run_id, node),
        "GroupName": group,
        "Description": f"Terminates {instance_id} after the deadline of its run",
        "ScheduleExpression": f"at({(deadline + GRACE).astimezone(UTC):%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": TARGET.format(partition=role_arn.split(":")[1]),
            "RoleArn": role_arn,
            "Input": json.dumps({"InstanceIds": [instance_id]}, separators=(",", ":")),
            "RetryPolicy": {"MaximumRetryAttempts": 10, "MaximumEventAgeInSeconds": 3600},
        },
    }


def parse_switch_name(name: str) -> Switch | None:
    """The switch behind a schedule's name; None for a schedule that is none of ours."""
    found = _NAME.fullmatch(name)
    return Switch(found[0], found[1], found[2], int(found[3] or 0)) if found else None
