"""The round as a whole: order, faults that stay where they are, permissions, what is printed and returned."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.doctor.answers import ApiError
from chronos_ec2.workstation.doctor.checkup import Check, doctor, examine
from chronos_ec2.workstation.doctor.findings import Finding, Level, error, ok, warning

from .fake_aws import refusal
from .world import ARN, World

READS = ("describe_", "get_", "list_", "head_")
CHANGING = {("s3", name) for name in ("put_object", "copy_object", "delete_object")}


def reported(world: World, **options: Any) -> tuple[ExitCode, str]:
    out = io.StringIO()
    code = doctor(world.facts(), out, machine=world.machine(), **options)
    return code, out.getvalue()


def test_all_well_is_a_line_a_finding_and_exit_code_0() -> None:
    code, text = reported(World())
    lines = text.splitlines()
    assert code == ExitCode.OK
    assert len({line.split()[0] for line in lines[:-1]}) == 1
    assert lines[-1] == f"dev: {len(lines) - 1} ok, 0 warnings, 0 errors"
    names = [check.name for check in World().checks()]
    shown = [line[9:27].strip() for line in lines[:-1]]
    assert list(dict.fromkeys(shown)) == names


def test_a_warning_is_exit_code_0_and_says_what_to_do() -> None:
    world = World()
    world.set(outside_switch=False)
    code, text = reported(world)
    assert code == ExitCode.OK
    line = next(line for line in text.splitlines() if line.startswith("warning"))
    assert line.endswith("->  set outside_switch: true in invoke.yaml")
    assert "1 warnings, 0 errors" in text


def test_an_error_is_an_exit_code_of_its_own() -> None:
    world = World()
    world.missing.add("jq")
    assert reported(world)[0] == ExitCode.NOT_READY
    assert reported(world, as_json=True)[0] == ExitCode.NOT_READY


def test_json_holds_every_finding() -> None:
    world = World()
    world.plan["cloudformation", "list_exports"] = {"Exports": []}
    code, text = reported(world, as_json=True)
    found = json.loads(text)
    assert (code, found["environment"], found["ready"]) == (ExitCode.NOT_READY, "dev", False)
    broken = [one for one in found["findings"] if one["level"] == "error"]
    assert broken == [
        {
            "check": "exports",
            "level": "error",
            "text": "the stack is not deployed in us-east-1",
            "advice": "invoke deploy --env dev",
        }
    ]
    assert {"check": "bucket", "because": "exports"} in found["not_checked"]
    assert json.loads(reported(World(), as_json=True)[1])["ready"] is True


def test_without_credentials_nothing_of_aws_is_asked_and_the_rest_is_reported_once() -> None:
    world = World()
    world.plan["sts", "get_caller_identity"] = refusal("ExpiredToken")
    _, text = reported(world)
    errors = [line for line in text.splitlines() if line.startswith("error")]
    assert [line.split()[1] for line in errors] == ["credentials"]
    assert "not checked, for want of credentials: " in text
    assert {call[0] for call in world.aws.calls} == {"sts"}


@pytest.mark.parametrize(
    ("service", "operation", "check", "level", "action"),
    [
        ("cloudformation", "list_exports", "exports", "error", "cloudformation:ListExports"),
        ("service-quotas", "get_service_quota", "quota", "warning", "servicequotas:GetServiceQuota"),
        ("iam", "get_instance_profile", "instance profile", "warning", "iam:GetInstanceProfile"),
        ("ec2", "describe_regions", "region", "warning", "ec2:DescribeRegions"),
        ("ec2", "describe_images", "image", "error", "ec2:DescribeImages"),
        ("ec2", "describe_subnets", "subnets", "warning", "ec2:DescribeSubnets"),
        ("ec2", "describe_route_tables", "subnets", "warning", "ec2:DescribeRouteTables"),
        ("ec2", "describe_security_groups", "security group", "warning", "ec2:DescribeSecurityGroups"),
        ("ec2", "describe_instance_types", "instance type", "warning", "ec2:DescribeInstanceTypes"),
        ("s3", "head_bucket", "bucket", "error", "s3:ListBucket"),
        ("s3", "get_public_access_block", "bucket privacy", "warning", "s3:GetBucketPublicAccessBlock"),
        ("s3", "put_object", "conditional writes", "error", "s3:PutObject"),
        ("scheduler", "get_schedule_group", "outside switch", "warning", "scheduler:GetScheduleGroup"),
        ("sns", "get_topic_attributes", "notices", "warning", "sns:GetTopicAttributes"),
    ],
)
def test_a_missing_permission_is_named(
    service: str, operation: str, check: str, level: str, action: str
) -> None:
    """It is an error where a launch makes the same call, else a warning that nobody could look."""
    world = World()
    world.aws.deny(service, operation, "UnauthorizedOperation" if service == "ec2" else "AccessDenied")
    found = {report.check: report.findings for report in world.round()}[check]
    assert (found[0].level, found[0].text) == (level, f"{ARN} may not {action}")
    assert found[0].advice == f"allow {action} to {ARN} (an IAM policy)"


def test_reading_the_uploads_without_permission_is_an_error_that_names_the_call() -> None:
    world = World()
    world.aws.deny("s3", "get_object")
    found = {report.check: report.findings for report in world.round()}
    for check in ("scripts", "environment", "data"):
        assert found[check][0].level is Level.ERROR
        assert "AWS refused GetObject" in found[check][0].text
        assert found[check][0].advice == f"allow it to {ARN} (an IAM policy, or the bucket's)"


def test_a_refusal_that_nobody_foresaw_keeps_its_words() -> None:
    world = World()
    world.plan["ec2", "describe_vpc_endpoints"] = refusal("RequestLimitExceeded", "slow down")
    found = world.examine("S3 endpoint")[0]
    assert (found.level, found.advice) == (Level.WARNING, "invoke doctor --env dev (again)")
    assert "RequestLimitExceeded: slow down" in found.text


def test_a_fault_in_one_check_hides_no_other() -> None:
    world = World()
    world.plan["ec2", "describe_security_groups"] = {"SecurityGroups": [{}]}  # not what the API answers
    found = {report.check: report.findings for report in world.round()}
    assert found["security group"][0].text.startswith("the check itself failed: KeyError")
    assert found["security group"][0].level is Level.ERROR
    assert sum(1 for findings in found.values() if findings) == len(found)


def test_checks_run_side_by_side_and_are_reported_in_order() -> None:
    everybody = threading.Barrier(4, timeout=20)

    def meet(number: int) -> list[Finding]:
        everybody.wait()  # passes only when all four are running
        return [ok(str(number))]

    wanted = [Check(f"check {number}", lambda number=number: meet(number)) for number in range(4)]
    reports = list(examine(World().facts(), wanted))
    assert [report.findings[0].text for report in reports] == ["0", "1", "2", "3"]


def test_each_question_is_asked_once() -> None:
    world = World()
    world.round()
    asked = [(service, operation, repr(arguments)) for service, operation, arguments in world.aws.calls]
    once = ("list_exports", "describe_subnets", "describe_route_tables", "describe_instance_types")
    for operation in (*once, "get_caller_identity", "describe_images"):
        assert sum(1 for call in asked if call[1] == operation) == 1, operation


def test_the_round_changes_nothing_but_its_own_key_for_a_moment() -> None:
    world = World()
    before = dict(world.s3.objects)
    world.round()
    changing = [call for call in world.aws.calls if not call[1].startswith(READS)]
    assert {call[:2] for call in changing} <= CHANGING
    assert all(call[2]["Key"].startswith("logs/doctor/") for call in changing)
    assert world.s3.objects == before
    launches = [argv for argv in world.commands if "run-instances" in argv]
    assert [argv[-1] for argv in launches] == ["--dry-run"]


def test_advice_goes_with_what_is_wrong_and_only_there() -> None:
    for make in (lambda: warning("x", ""), lambda: error("x", ""), lambda: Finding(Level.OK, "x", "y")):
        with pytest.raises(ValueError, match="advice goes with"):
            make()


def test_the_action_of_an_operation() -> None:
    assert ApiError("s3", "ListObjectsV2", "403", "").action == "s3:ListBucket"
    assert ApiError("ec2", "DescribeImages", "UnauthorizedOperation", "").denied
    assert not ApiError("ec2", "DescribeImages", "InvalidAMIID.NotFound", "").denied
