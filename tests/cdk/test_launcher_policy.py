"""What the person who launches may do, and what not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .templates import Template, flat, listed, only

OURS = {"StringEquals": {"aws:ResourceTag/Project": "Chronos-Training"}}


@pytest.fixture
def by_sid(default_template: Template) -> dict[str, dict[str, Any]]:
    document = only(default_template, "AWS::IAM::ManagedPolicy")["Properties"]["PolicyDocument"]
    return {statement["Sid"]: statement for statement in document["Statement"]}


def resources(statement: dict[str, Any]) -> list[str]:
    return [flat(one) for one in listed(statement["Resource"])]


def test_it_only_allows_and_names_every_action(by_sid: dict[str, dict[str, Any]]) -> None:
    assert {statement["Effect"] for statement in by_sid.values()} == {"Allow"}
    assert not any("*" in action for one in by_sid.values() for action in listed(one["Action"]))


def test_what_is_allowed_on_everything_only_reads(by_sid: dict[str, dict[str, Any]]) -> None:
    (wide,) = (sid for sid, statement in by_sid.items() if "*" in resources(statement))
    reads = ("Describe", "List", "Get", "Decode")
    assert all(action.partition(":")[2].startswith(reads) for action in by_sid[wide]["Action"])


def test_machines_start_only_with_the_projects_tag_in_the_stacks_network(
    by_sid: dict[str, dict[str, Any]],
) -> None:
    tagged = {"aws:RequestTag/Project": "Chronos-Training"}
    assert by_sid["StartWith"]["Condition"] == {"StringEquals": tagged}
    kinds = [resource.rpartition(":")[2] for resource in resources(by_sid["StartWith"])]
    assert kinds == ["network-interface/*", "volume/*"]
    # A machine whose metadata service answers without a token cannot be started with this policy.
    guarded = {**tagged, "ec2:MetadataHttpTokens": "required"}
    assert by_sid["Start"]["Condition"] == {"StringEquals": guarded}
    (machine,) = resources(by_sid["Start"])
    assert machine.rpartition(":")[2] == "instance/*"
    used = [resource.rpartition(":")[2] for resource in resources(by_sid["StartFrom"])]
    assert used[0] == "image/*"
    assert [name.partition("/")[0] for name in used[1:]] == ["subnet", "security-group"]
    assert not any(name.endswith("*") for name in used[1:])


def test_a_spot_request_may_be_made_with_its_tags(by_sid: dict[str, dict[str, Any]]) -> None:
    """EC2 asks for it when it is to get tags, as a launch has it, and takes no condition on them there."""
    (request,) = resources(by_sid["StartSpot"])
    assert request.rpartition(":")[2] == "spot-instances-request/*"
    assert by_sid["StartSpot"]["Action"] == "ec2:RunInstances" and "Condition" not in by_sid["StartSpot"]


def test_the_quotas_that_a_refused_launch_names_can_be_read(by_sid: dict[str, dict[str, Any]]) -> None:
    explained = (Path(__file__).parents[2] / "shell/lib/launch_errors.sh").read_text()
    services = set(re.findall(r"_quota_value (\w+)", explained))
    readable = {resource.rpartition(":")[2] for resource in resources(by_sid["LookAtQuotas"])}
    assert services == {"ec2", "ebs"} and readable == {f"{service}/*" for service in services}


def test_nothing_that_is_there_already_can_be_tagged(by_sid: dict[str, dict[str, Any]]) -> None:
    assert by_sid["TagWhatStarts"]["Condition"]["StringEquals"]["ec2:CreateAction"] == "RunInstances"
    (sid,) = (sid for sid, one in by_sid.items() if "ec2:CreateTags" in listed(one["Action"]))
    assert sid == "TagWhatStarts"


def test_only_what_carries_the_projects_tag_can_be_ended(by_sid: dict[str, dict[str, Any]]) -> None:
    ending = ("Terminate", "Delete", "Cancel", "Stop")
    for sid, statement in by_sid.items():
        actions = [action for action in listed(statement["Action"]) if action.startswith("ec2:")]
        if any(action.removeprefix("ec2:").startswith(ending) for action in actions):
            assert (sid, statement["Condition"]) == ("End", OURS)


def test_the_two_roles_can_be_handed_to_their_services_and_no_rights_given(
    by_sid: dict[str, dict[str, Any]],
) -> None:
    passed = {
        statement["Condition"]["StringEquals"]["iam:PassedToService"]: resources(statement)
        for statement in by_sid.values()
        if listed(statement["Action"]) == ["iam:PassRole"]
    }
    assert passed.keys() == {"ec2.amazonaws.com", "scheduler.amazonaws.com"}
    assert all(len(roles) == 1 and roles[0].startswith("<") for roles in passed.values())
    iam = {a for one in by_sid.values() for a in listed(one["Action"]) if a.startswith("iam:")}
    assert {action.partition(":")[2][:3] for action in iam} <= {"Get", "Lis", "Pas"}
