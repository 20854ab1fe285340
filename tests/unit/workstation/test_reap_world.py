"""`invoke reap` on a made-up AWS: what it does, and what it says when a part does not answer."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from chronos_ec2.errors import ChronosError, StorageDenied, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.outside_switch import switch_name
from chronos_ec2.workstation.reap import Reaper, reap
from chronos_ec2.workstation.switch_service import OutsideSwitches

RUN, OTHER = "2025-01-15-143022", "2025-01-15-150000"
GROUP, ROLE = "ChronosTraining", "arn:aws:iam::123456789012:role/Switch"
LATER = timedelta(hours=1)


class Refused:
    """A client that refuses every call."""

    def get_paginator(self, name: str) -> Any:
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, name)


class Scene:
    """A world with a schedule group, and reap on it an hour from now."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.scheduler = boto3.client("scheduler", region_name="us-east-1")
        self.scheduler.create_schedule_group(Name=GROUP)
        self.switches = OutsideSwitches(self.scheduler, GROUP, ROLE)
        self.told: list[str] = []
        self.out = io.StringIO()
        self.now = datetime.now(UTC) + LATER
        world.clock.time = self.now  # moto's instances are as old as the test

    def volume(self, run_id: str, environment: str = "dev", **more: Any) -> str:
        tags = {"Project": "Chronos-Training", "Environment": environment, "RunId": run_id}
        specification = {"ResourceType": "volume", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
        made = self.world.real_ec2.create_volume(
            AvailabilityZone="us-east-1a", Size=100, TagSpecifications=[specification], **more
        )
        return str(made["VolumeId"])

    def volumes(self) -> set[str]:
        return {item["VolumeId"] for item in self.world.real_ec2.describe_volumes()["Volumes"]}

    def armed(self) -> set[str]:
        return {switch.name for switch in self.switches.armed()}

    def live_run(self, **record: Any) -> str:
        """A run that trains and beats, with its instance; the instance's id."""
        instance = self.world.start_instance(RUN)
        deadline = to_text(self.now + timedelta(hours=2))
        control = {"revision": 1, "writer": "w", "deadline": deadline, "attempt": 1}
        self.world.put_state("training", "step_1", RUN, instance_id=instance, control=control)
        self.world.put_run(RUN, **record)
        return str(instance)

    def reap(self, **changes: Any) -> ExitCode:
        world = self.world
        known: dict[str, Any] = {"switches": self.switches, "bucket": world.bucket, **changes}
        reaper = Reaper(
            world.s3,
            world.ec2,
            known.pop("bucket"),
            "dev",
            stale_after=timedelta(minutes=15),
            claim_patience=timedelta(minutes=5),
            out=self.out,
            tell=self.told.append,
            now=world.clock.now,
            sleep=world.clock.sleep,
            switches=known.pop("switches"),
            trouble=known.pop("trouble", None),
        )
        options: dict[str, Any] = {"dry_run": False, "as_json": False, "confirm": lambda: True, **known}
        return reap(reaper, out=self.out, **options)


@pytest.fixture
def scene(world: Any) -> Scene:
    return Scene(world)


def test_what_an_ended_run_left_behind_goes_and_what_others_have_stays(scene: Scene) -> None:
    live = scene.live_run()
    strangers = {scene.volume(OTHER, "prod"), scene.volume(RUN)}
    doomed = scene.volume(OTHER)
    deadline = scene.now + timedelta(hours=2)
    for environment, run_id in (("dev", RUN), ("dev", OTHER), ("prod", OTHER)):
        scene.switches.arm(environment, run_id, live, deadline)
    assert scene.reap() == ExitCode.OK, scene.out.getvalue()
    assert scene.armed() == {switch_name("dev", RUN), switch_name("prod", OTHER)}
    assert scene.volumes() >= strangers and doomed not in scene.volumes()
    assert scene.world.real_ec2.describe_instances(InstanceIds=[live])
    assert scene.reap() == ExitCode.OK and "nothing to end" in scene.out.getvalue()


def test_a_spot_request_of_an_ended_run_is_cancelled(scene: Scene) -> None:
    tags = {"Project": "Chronos-Training", "Environment": "dev", "RunId": OTHER}
    asked = scene.world.real_ec2.request_spot_instances(
        SpotPrice="0.5", LaunchSpecification={"ImageId": "ami-12c6146b", "InstanceType": "m5.large"}
    )["SpotInstanceRequests"][0]["SpotInstanceRequestId"]
    scene.world.real_ec2.create_tags(
        Resources=[asked], Tags=[{"Key": key, "Value": value} for key, value in tags.items()]
    )
    assert scene.reap(dry_run=True) == ExitCode.OK
    assert f"cancel    {asked}" in scene.out.getvalue()
    scene.reap()
    answer = scene.world.real_ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert [item["State"] for item in answer if item["State"] in ("open", "active")] == []


def test_a_live_run_without_the_switch_it_asked_for_gets_it_late_by_its_own_deadline(scene: Scene) -> None:
    name = switch_name("dev", RUN)
    instance = scene.live_run(switches={"guest": "x", "outside": name})
    assert scene.reap() == ExitCode.OK, scene.out.getvalue()
    made = scene.scheduler.get_schedule(Name=name, GroupName=GROUP)
    assert json.loads(made["Target"]["Input"]) == {"InstanceIds": [instance]}
    due = scene.now + timedelta(hours=2, minutes=5)
    assert made["ScheduleExpression"] == f"at({due:%Y-%m-%dT%H:%M:%S})"
    assert f"{name} is armed" in scene.out.getvalue()


@pytest.mark.parametrize("record", [{"switches": {"guest": "x", "outside": None}}, {}, {"switches": None}])
def test_a_run_that_was_launched_without_a_switch_gets_none(scene: Scene, record: dict[str, Any]) -> None:
    scene.live_run(**record)
    assert scene.reap() == ExitCode.OK and scene.armed() == set()


def test_a_switch_that_cannot_be_armed_or_deleted_is_said_and_is_a_failure(scene: Scene) -> None:
    class Refusing(OutsideSwitches):
        def arm(self, *_words: Any) -> None:
            raise ChronosError("refused to arm")

        def disarm(self, name: str) -> None:
            raise ChronosError("refused to delete")

    scene.live_run(switches={"outside": switch_name("dev", RUN)})
    scene.switches.arm("dev", OTHER, "i-1", scene.now)
    assert scene.reap(switches=Refusing(scene.scheduler, GROUP, ROLE)) == ExitCode.FAILED
    assert "refused to arm" in scene.out.getvalue() and "refused to delete" in scene.out.getvalue()


def test_switches_or_volumes_that_cannot_be_listed_are_said_and_keep_nothing_else_from_being_done(
    scene: Scene,
) -> None:
    stray = scene.world.start_instance(OTHER)
    real = scene.world.ec2.get_paginator

    def paginator(name: str) -> Any:
        if name == "describe_volumes":
            raise ClientError({"Error": {"Code": "UnauthorizedOperation"}}, "DescribeVolumes")
        return real(name)

    scene.world.ec2.get_paginator = paginator
    assert scene.reap(switches=OutsideSwitches(Refused(), GROUP, ROLE)) == ExitCode.OK
    said = scene.out.getvalue()
    assert "leave     outside switches: the outside switches cannot be listed" in said
    assert "leave     volumes: could not be listed" in said
    assert f"terminating {stray}" in said


def test_without_s3_only_what_is_past_its_own_deadline_is_ended_and_the_error_is_s3s(scene: Scene) -> None:
    due = {"Key": "Deadline", "Value": to_text(scene.now - timedelta(minutes=1))}
    late, other = scene.world.start_instance(RUN), scene.world.start_instance(OTHER)
    scene.world.real_ec2.create_tags(Resources=[late], Tags=[due])
    scene.world.s3.fail("get_object", "AccessDenied", times=5)
    with pytest.raises(StorageDenied):
        scene.reap()
    states = {
        item["InstanceId"]: item["State"]["Name"]
        for group in scene.world.real_ec2.describe_instances()["Reservations"]
        for item in group["Instances"]
    }
    assert states == {late: "terminated", other: "running"}
    assert f"leave     {other}: who holds dev is not known" in scene.out.getvalue()


def test_without_a_stack_machines_past_their_deadline_are_ended_all_the_same(scene: Scene) -> None:
    late = scene.world.start_instance(RUN)
    due = {"Key": "Deadline", "Value": to_text(scene.now - timedelta(minutes=1))}
    scene.world.real_ec2.create_tags(Resources=[late], Tags=[due])
    with pytest.raises(ChronosError, match="no stack"):
        scene.reap(bucket=None, switches=None, trouble=ChronosError("no stack"))
    assert f"terminating {late}" in scene.out.getvalue()


def test_a_machine_that_ec2_refuses_to_end_does_not_save_another(scene: Scene) -> None:
    strays = [scene.world.start_instance(OTHER) for _ in range(2)]
    scene.world.ec2.fail("terminate_instances", "OperationNotPermitted", times=1)
    with pytest.raises(ChronosError, match="OperationNotPermitted"):
        scene.reap()
    listed = scene.world.real_ec2.describe_instances(InstanceIds=strays)["Reservations"]
    states = sorted(item["State"]["Name"] for group in listed for item in group["Instances"])
    assert states == ["running", "terminated"]


def test_nobody_agreed_and_nothing_is_done(scene: Scene) -> None:
    volume = scene.volume(OTHER)
    with pytest.raises(UsageProblem):
        scene.reap(confirm=lambda: False)
    assert volume in scene.volumes()


def test_an_ended_run_is_told_of_and_a_dry_run_changes_nothing(scene: Scene) -> None:
    stray = scene.world.start_instance(OTHER)
    scene.world.put_run(OTHER)
    before = scene.world.keys()
    assert scene.reap(dry_run=True, as_json=True) == ExitCode.OK
    assert json.loads(scene.out.getvalue())["actions"][0]["what"] == stray
    assert scene.world.keys() == before and scene.told == []
    scene.reap()
    assert scene.told == [OTHER]
    assert scene.world.run_document(OTHER)["outcome"] == "lost"
