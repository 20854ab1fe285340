"""What an instance may do: each statement, and above all what is in none of them."""

from __future__ import annotations

from typing import Any

import pytest

from .templates import named, statements


def bucket_resource(path: str) -> str:
    return f"<bucket>{path}"


@pytest.fixture
def policy(default_template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return statements(named(default_template, "Identity", "AWS::IAM::Role"))


def test_the_statements_are_these_and_no_others(policy: dict[str, dict[str, Any]]) -> None:
    assert policy.keys() == {
        "S3ListBucket",
        "S3ReadAccess",
        "S3WriteAccess",
        "EC2SelfManagement",
        "EC2Describe",
        "SNSNotices",
    }
    assert {statement["effect"] for statement in policy.values()} == {"Allow"}


def test_shared_inputs_are_read_only(policy: dict[str, dict[str, Any]]) -> None:
    assert policy["S3ReadAccess"]["actions"] == {"s3:GetObject"}
    assert policy["S3ReadAccess"]["resources"] == {bucket_resource("/cached-datasets/*")}


def test_listing_is_granted_on_the_bucket_and_on_no_object(policy: dict[str, dict[str, Any]]) -> None:
    assert policy["S3ListBucket"]["actions"] == {"s3:ListBucket"}
    assert policy["S3ListBucket"]["resources"] == {bucket_resource("")}
    # A condition would turn "no such key" into "access denied", and the state protocol reads the difference.
    assert policy["S3ListBucket"]["condition"] is None


def test_writes_stay_in_the_environments_prefixes_and_the_shared_logs(
    policy: dict[str, dict[str, Any]], custom_template: dict[str, Any]
) -> None:
    assert policy["S3WriteAccess"]["resources"] == {
        bucket_resource(path) for path in ("/dev/*", "/prod/*", "/logs/*")
    }
    role = named(custom_template, "Identity", "AWS::IAM::Role")
    assert statements(role)["S3WriteAccess"]["resources"] == {
        bucket_resource(path) for path in ("/local/*", "/team-a/*", "/logs/*")
    }
    assert policy["S3WriteAccess"]["actions"] == {
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:GetObjectTagging",
        "s3:PutObjectTagging",
        "s3:AbortMultipartUpload",
    }


def test_only_instances_of_this_project_can_be_terminated(policy: dict[str, dict[str, Any]]) -> None:
    statement = policy["EC2SelfManagement"]
    assert statement["actions"] == {"ec2:TerminateInstances"}
    assert statement["resources"] == {"arn:<AWS::Partition>:ec2:<AWS::Region>:<AWS::AccountId>:instance/*"}
    assert statement["condition"] == {"StringEquals": {"ec2:ResourceTag/Project": "Chronos-Training"}}


def test_describing_stands_alone_because_it_takes_no_tag_condition(policy: dict[str, dict[str, Any]]) -> None:
    assert policy["EC2Describe"]["actions"] == {"ec2:DescribeInstances"}
    assert policy["EC2Describe"]["condition"] is None


def test_only_describing_is_allowed_on_everything(policy: dict[str, dict[str, Any]]) -> None:
    assert [sid for sid, statement in policy.items() if "*" in statement["resources"]] == ["EC2Describe"]
    assert not any("*" in action for statement in policy.values() for action in statement["actions"])


def test_an_instance_cannot_tag_launch_or_reach_identity(policy: dict[str, dict[str, Any]]) -> None:
    actions = set().union(*(statement["actions"] for statement in policy.values()))
    assert {action for action in actions if action.startswith("ec2:")} == {
        "ec2:TerminateInstances",
        "ec2:DescribeInstances",
    }
    assert {action.partition(":")[0] for action in actions} == {"s3", "ec2", "sns"}
    assert not any(action.startswith("scheduler:") for action in actions), "it could disarm its own switch"


def test_notices_go_to_the_one_topic(
    policy: dict[str, dict[str, Any]], default_template: dict[str, Any]
) -> None:
    (topic,) = (n for n, r in default_template["Resources"].items() if r["Type"] == "AWS::SNS::Topic")
    assert policy["SNSNotices"]["actions"] == {"sns:Publish"}
    assert policy["SNSNotices"]["resources"] == {f"<{topic}>"}


def test_only_ec2_can_assume_the_role_and_the_profile_carries_it(default_template: dict[str, Any]) -> None:
    resources = default_template["Resources"]
    (role_id,) = (
        n for n, r in resources.items() if r == named(default_template, "Identity", "AWS::IAM::Role")
    )
    (trust,) = resources[role_id]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {
        "Action": "sts:AssumeRole",
        "Effect": "Allow",
        "Principal": {"Service": "ec2.amazonaws.com"},
    }
    assert "ManagedPolicyArns" not in resources[role_id]["Properties"]
    (profile,) = (r for r in resources.values() if r["Type"] == "AWS::IAM::InstanceProfile")
    assert profile["Properties"] == {
        "InstanceProfileName": "ChronosTrainingInstanceProfile",
        "Roles": [{"Ref": role_id}],
    }
