"""One-off schedules: made as EventBridge Scheduler makes them, and carried out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chronos_ec2.state.clock import utc_now

Check = Callable[..., bool]
GROUP = "ScheduleTest"
ACCOUNT = "123456789012"
GROUP_ARN = f"arn:aws:scheduler:us-east-1:{ACCOUNT}:schedule-group/{GROUP}"
TERMINATE = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"


class Schedules:
    """The scheduler API with the defaults of these tests, and a clock that can be moved."""

    def __init__(self, client: Any, role: str, clock: Path) -> None:
        self.client = client
        self.role = role
        self._clock = clock

    def create(self, name: str, instances: list[str], **changes: Any) -> str:
        target = {
            "Arn": TERMINATE,
            "RoleArn": self.role,
            "Input": json.dumps({"InstanceIds": instances}),
            "RetryPolicy": {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60},
        }
        asked = {
            "Name": name,
            "GroupName": GROUP,
            "ScheduleExpression": in_an_hour(),
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Target": target | changes.pop("Target", {}),
        }
        return str(self.client.create_schedule(**{**asked, **changes})["ScheduleArn"])

    def names(self) -> list[str]:
        return sorted(item["Name"] for item in self.client.list_schedules(GroupName=GROUP)["Schedules"])

    def let_pass(self, span: timedelta) -> None:
        self._clock.write_text(str(span.total_seconds()))


def in_an_hour(moment: datetime | None = None) -> str:
    return f"at({(moment or utc_now()) + timedelta(hours=1):%Y-%m-%dT%H:%M:%S})"


def make_role(
    iam: Any, name: str, condition: dict[str, Any] | None = None, service: str = "scheduler"
) -> str:
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": f"{service}.amazonaws.com"},
    }
    if condition:
        statement["Condition"] = {"StringEquals": condition}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
    leave = {"Effect": "Allow", "Action": "ec2:TerminateInstances", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [leave]})
    iam.put_role_policy(RoleName=name, PolicyName="leave", PolicyDocument=policy)
    return str(role["Arn"])


@pytest.fixture(scope="module")
def made(cloud: Any) -> Schedules:
    client = cloud.client("scheduler")
    client.create_schedule_group(Name=GROUP)
    condition = {"aws:SourceArn": GROUP_ARN, "aws:SourceAccount": ACCOUNT}
    role = make_role(cloud.client("iam"), "ScheduleTest", condition)
    return Schedules(client, role, cloud.home / "clock-offset")


@pytest.fixture
def schedules(made: Schedules, cloud: Any) -> Iterator[Schedules]:
    yield made
    made.let_pass(timedelta(0))
    for name in made.names():
        made.client.delete_schedule(Name=name, GroupName=GROUP)


def test_an_instance_is_ended_when_its_time_has_come_and_the_schedule_goes(
    schedules: Schedules, cloud: Any, eventually: Check
) -> None:
    instance, other = cloud.boot("#!/bin/sh\nsleep 60\n"), cloud.boot("#!/bin/sh\nsleep 60\n")
    schedules.create("one", [instance])
    schedules.create("later", [other], ScheduleExpression=in_an_hour(utc_now() + timedelta(hours=2)))
    schedules.create("off", [other], State="DISABLED")
    schedules.let_pass(timedelta(minutes=59))
    assert schedules.names() == ["later", "off", "one"]
    schedules.let_pass(timedelta(minutes=61))
    assert cloud.ends_as(instance, "terminated")
    assert eventually(lambda: schedules.names() == ["later", "off"])
    assert cloud.state(other) == "running"
    cloud.ec2.terminate_instances(InstanceIds=[other])


def test_a_call_that_fails_is_made_again_and_in_the_end_the_schedule_goes_all_the_same(
    schedules: Schedules, eventually: Check
) -> None:
    retry = {"RetryPolicy": {"MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 60}}
    schedules.create("gone", ["i-00000000000000000"], Target=retry)
    schedules.let_pass(timedelta(hours=2))
    assert not eventually(lambda: schedules.names() == [], 0.7), "one attempt was enough"
    assert eventually(lambda: schedules.names() == [])


def test_without_deletion_a_schedule_stays_and_is_carried_out_once(schedules: Schedules, cloud: Any) -> None:
    instance = cloud.boot("#!/bin/sh\nsleep 60\n")
    schedules.create("kept", [instance], ActionAfterCompletion="NONE")
    schedules.let_pass(timedelta(hours=2))
    assert cloud.ends_as(instance, "terminated")
    assert schedules.names() == ["kept"]


def test_a_repeated_token_makes_nothing_new_and_a_taken_name_is_a_conflict(schedules: Schedules) -> None:
    first = schedules.create("taken", ["i-1"], ClientToken="a-token")
    assert schedules.create("taken", ["i-1"], ClientToken="a-token") == first
    with pytest.raises(ClientError, match="ConflictException"):
        schedules.create("taken", ["i-1"], ClientToken="another")


def test_what_the_service_would_refuse_is_refused(schedules: Schedules, cloud: Any) -> None:
    iam = cloud.client("iam")
    strangers = [
        make_role(iam, "ForInstances", service="ec2"),
        make_role(iam, "ForOthers", {"aws:SourceAccount": "210987654321"}),
        make_role(iam, "ForAnotherGroup", {"aws:SourceArn": GROUP_ARN + "2"}),
        f"arn:aws:iam::{ACCOUNT}:role/nobody",
    ]
    for role in strangers:
        with pytest.raises(ClientError, match=r"ValidationException.*must allow AWS EventBridge Scheduler"):
            schedules.create("refused", ["i-1"], Target={"RoleArn": role})
    with pytest.raises(ClientError, match=r"ResourceNotFoundException.*group"):
        schedules.create("refused", ["i-1"], GroupName="nowhere")
    for expression in ("at(tomorrow)", "at(2026-02-30T00:00:00)", "at(2026-02-03T00:00:00Z)", "every day"):
        with pytest.raises(ClientError, match="Invalid Schedule Expression"):
            schedules.create("refused", ["i-1"], ScheduleExpression=expression)
    assert schedules.names() == []
