"""Every policy of the template, as IAM itself would judge it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .iam_reference import GLOBAL_KEYS, look_up, problems
from .templates import Template, listed

# The only actions that any policy here allows on every resource.
# The reason is the same for each, and a test below holds them to it: they know no resources.
WILDCARDS = frozenset(
    {
        "cloudformation:ListExports",
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeInternetGateways",
        "ec2:DescribeRegions",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSpotInstanceRequests",
        "ec2:DescribeSpotPriceHistory",
        "ec2:DescribeSubnets",
        "ec2:DescribeVolumes",
        "ec2:DescribeVpcEndpoints",
        "pricing:GetProducts",
        "scheduler:ListSchedules",
        "servicequotas:GetAWSDefaultServiceQuota",
        "sts:DecodeAuthorizationMessage",
    }
)
LONGEST_MANAGED_POLICY = 6144
LONGEST_INLINE_POLICIES = 10_240
NAMES = {
    "AWS::Partition": "aws",
    "AWS::Region": "ap-southeast-1",
    "AWS::AccountId": "123456789012",
}
MADE = {
    "AWS::S3::Bucket": "arn:aws:s3:::chronostraining-storagebucket5cb7c8ea-0123456789ab",
    "AWS::SNS::Topic": "arn:aws:sns:ap-southeast-1:123456789012:ChronosTraining",
    "AWS::IAM::Role": "arn:aws:iam::123456789012:role/ChronosTraining-{name}-0123456789AB",
    "AWS::IAM::InstanceProfile": "arn:aws:iam::123456789012:instance-profile/{name}",
    "AWS::Scheduler::ScheduleGroup": "arn:aws:scheduler:ap-southeast-1:123456789012:schedule-group/Chronos",
    "AWS::EC2::Subnet": "subnet-0123456789abcdef0",
    "AWS::EC2::SecurityGroup": "sg-0123456789abcdef0",
    "AWS::EC2::PlacementGroup": "ChronosTraining",
}


def resolved(template: Template, value: Any) -> Any:
    """A part of the template as CloudFormation would give it to IAM, with invented ids."""
    if isinstance(value, list):
        return [resolved(template, one) for one in value]
    if not isinstance(value, dict):
        return value
    if "Fn::Join" in value:
        separator, parts = value["Fn::Join"]
        return separator.join(resolved(template, parts))
    name = value.get("Ref") or value.get("Fn::GetAtt", [""])[0]
    if name in NAMES:
        return NAMES[name]
    if name:
        return MADE[template["Resources"][name]["Type"]].format(name=name)
    return {key: resolved(template, one) for key, one in value.items()}


def identity_policies(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy of a role, and every managed one, by a name to find it by."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"):
            yield name, resolved(template, properties["PolicyDocument"])
        for policy in properties.get("Policies", []) if resource["Type"] == "AWS::IAM::Role" else []:
            yield f"{name}/{policy['PolicyName']}", resolved(template, policy["PolicyDocument"])


def complaints(document: dict[str, Any]) -> list[str]:
    """What IAM would find in an identity policy."""
    found = []
    for statement in document["Statement"]:
        lists = {element: listed(statement[element]) for element in ("Action", "Resource")}
        found += [f"{statement['Sid']}: {words}" for words in problems({**statement, **lists}, WILDCARDS)]
    return found


@pytest.mark.parametrize("which", ["default_template", "custom_template"])
def test_iam_accepts_every_identity_policy(which: str, request: pytest.FixtureRequest) -> None:
    policies = dict(identity_policies(request.getfixturevalue(which)))
    assert len(policies) == 3, "instance, Scheduler, launcher"
    assert {name: found for name, document in policies.items() if (found := complaints(document))} == {}


def test_what_is_allowed_on_everything_knows_no_resources(default_template: Template) -> None:
    used = {
        action
        for _, document in identity_policies(default_template)
        for statement in document["Statement"]
        if "*" in listed(statement["Resource"])
        for action in listed(statement["Action"])
    }
    assert used == WILDCARDS
    for name in used:
        action = look_up(name)
        assert action is not None and not action.kinds, f"{name} could be limited"


def test_the_policies_are_no_longer_than_iam_takes(custom_template: Template) -> None:
    for name, document in identity_policies(custom_template):
        length = len(json.dumps(document, separators=(",", ":")))
        assert length <= (LONGEST_INLINE_POLICIES if "/" in name else LONGEST_MANAGED_POLICY), name


def resource_policies(template: Template) -> Iterator[dict[str, Any]]:
    """The statements of trust, bucket and topic policies."""
    for resource in template["Resources"].values():
        for element in ("AssumeRolePolicyDocument", "PolicyDocument"):
            document = resource.get("Properties", {}).get(element)
            if document is not None and resource["Type"] != "AWS::IAM::ManagedPolicy":
                yield from resolved(template, document)["Statement"]


def test_iam_accepts_every_policy_of_a_resource(custom_template: Template) -> None:
    statements = list(resource_policies(custom_template))
    assert len(statements) == 6, "two trusts, two of the bucket's, two of the topic's"
    for statement in statements:
        for name in listed(statement["Action"]):
            assert name == "s3:*" or look_up(name) is not None, name
        # A denial may be as wide as it likes.
        assert "*" not in listed(statement["Action"]) or statement["Effect"] == "Deny"
        for tests in statement.get("Condition", {}).values():
            assert {key.lower() for key in tests} <= GLOBAL_KEYS
        assert statement["Effect"] == "Deny" or "Service" in statement["Principal"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"Action": "ec2:TerminateInstance"}, "IAM knows no such action"),
        ({"Action": "ec2:*"}, "IAM knows no such action"),
        ({"Resource": "*"}, "on every resource, and is not listed"),
        ({"Resource": "arn:aws:ec2:us-east-1:123456789012:volume/*"}, "is never asked for on"),
        ({"Resource": "arn:aws:s3:::bucket/*"}, "is never asked for on"),
        ({"Action": "s3:PutObject", "Resource": "arn:aws:s3:::bucket"}, "is never asked for on"),
        ({"Action": "s3:ListBucket", "Resource": "arn:aws:s3:::bucket/*"}, "is never asked for on"),
        (
            {"Action": ["ec2:TerminateInstances", "ec2:DescribeInstances"]},
            "ec2:DescribeInstances: is never asked for on",
        ),
        (
            {"Action": "ec2:DescribeInstances", "Resource": "*"},
            "ec2:DescribeInstances: ignores ec2:ResourceTag/Project",
        ),
        (
            {"Action": "sns:Publish", "Resource": "arn:aws:sns:us-east-1:123456789012:topic"},
            "sns:Publish: ignores ec2:ResourceTag/Project for topic",
        ),
        (
            {"Condition": {"StringEquals": {"aws:RequestTag/Project": "x"}}},
            "ec2:TerminateInstances: ignores aws:RequestTag/Project for instance",
        ),
        (
            {"Condition": {"StringEquals": {"ec2:ResourceTags/Project": "x"}}},
            "ignores ec2:ResourceTags/Project",
        ),
        (
            {"Condition": {"Bool": {"ec2:ResourceTag/Project": "true"}}},
            "is of type String, Bool is not for it",
        ),
        ({"Condition": {"StringEqual": {"ec2:ResourceTag/Project": "x"}}}, "StringEqual is not for it"),
        (
            {"Resource": ["arn:aws:ec2:us-east-1:123456789012:instance/*", "arn:aws:s3:::bucket/*"]},
            "no action here is for it",
        ),
    ],
)
def test_what_aws_would_not_accept_or_never_apply_is_found(changes: dict[str, Any], complaint: str) -> None:
    good = {
        "Sid": "X",
        "Effect": "Allow",
        "Action": "ec2:TerminateInstances",
        "Resource": "arn:aws:ec2:us-east-1:123456789012:instance/*",
        "Condition": {"StringEquals": {"ec2:ResourceTag/Project": "x"}},
    }
    assert complaints({"Statement": [good]}) == []
    assert complaint in "\n".join(complaints({"Statement": [{**good, **changes}]}))
