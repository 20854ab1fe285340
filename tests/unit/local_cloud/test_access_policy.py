"""What identity policies allow, as IAM's evaluation logic has it."""

from __future__ import annotations

from typing import Any

import pytest

from chronos_ec2.local_cloud.access.policy import Question, allowed

OBJECT = "arn:aws:s3:::bucket/dev/run.json"


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def statement(effect: str = "Allow", **elements: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": "s3:GetObject", "Resource": "*", **elements}


def ask(*statements: dict[str, Any], context: dict[str, tuple[str, ...]] | None = None, **more: str) -> bool:
    question = Question(more.get("action", "s3:GetObject"), more.get("resource", OBJECT), context or {})
    return allowed([document(*statements)], question)


def test_nothing_is_allowed_that_nothing_allows() -> None:
    assert not allowed([], Question("s3:GetObject", OBJECT))
    assert not ask(statement(Action="s3:PutObject"))


def test_a_denial_wins_wherever_it_stands() -> None:
    allow, deny = document(statement()), document(statement("Deny"))
    assert allowed([allow], Question("s3:GetObject", OBJECT))
    assert not allowed([allow, deny], Question("s3:GetObject", OBJECT))
    assert not allowed([deny, allow], Question("s3:GetObject", OBJECT))


@pytest.mark.parametrize(
    ("action", "matches"),
    [
        ("s3:GetObject", True),
        ("S3:getobject", True),
        ("s3:Get*", True),
        ("*", True),
        (["ec2:RunInstances", "s3:Get?bject"], True),
        ("s3:GetObjectTagging", False),
        ("s3:Get", False),
        ("s3.GetObject", False),
    ],
)
def test_actions_match_by_name_without_case_and_by_wildcard(action: Any, matches: bool) -> None:
    assert ask(statement(Action=action)) is matches


@pytest.mark.parametrize(
    ("resource", "matches"),
    [
        (OBJECT, True),
        ("arn:aws:s3:::bucket/dev/*", True),
        ("arn:aws:s3:::bucket/*", True),
        (["arn:aws:s3:::other/*", "arn:aws:s3:::bucket/dev/run.jso?"], True),
        ("arn:aws:s3:::bucket", False),
        ("arn:aws:s3:::BUCKET/dev/*", False),
        ("arn:aws:s3:::bucket/prod/*", False),
        ("arn:aws:s3:::bucketXdev/run.json", False),
    ],
)
def test_resources_match_with_case_and_by_wildcard(resource: Any, matches: bool) -> None:
    assert ask(statement(Resource=resource)) is matches


def test_what_is_excepted_is_not_meant() -> None:
    assert ask({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"})
    assert not ask({"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"})
    assert not ask({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::bucket/*"})


def test_a_statement_that_names_a_resource_is_not_for_actions_that_know_none() -> None:
    instances = "arn:aws:ec2:us-east-1:1:instance/*"
    describe = {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": instances}
    assert not ask(describe, action="ec2:DescribeInstances", resource="*")


TAGGED = {"ec2:resourcetag/project": ("Chronos-Training",)}


@pytest.mark.parametrize(
    ("condition", "context", "met"),
    [
        ({"StringEquals": {"ec2:ResourceTag/Project": "Chronos-Training"}}, TAGGED, True),
        ({"StringEquals": {"ec2:ResourceTag/Project": "chronos-training"}}, TAGGED, False),
        ({"StringEquals": {"ec2:ResourceTag/Project": "Chronos-Training"}}, {}, False),
        ({"StringEquals": {"ec2:ResourceTag/Project": ["x", "Chronos-Training"]}}, TAGGED, True),
        ({"StringEqualsIfExists": {"ec2:ResourceTag/Project": "x"}}, {}, True),
        ({"StringEqualsIfExists": {"ec2:ResourceTag/Project": "x"}}, TAGGED, False),
        ({"StringEqualsIgnoreCase": {"ec2:ResourceTag/Project": "CHRONOS-training"}}, TAGGED, True),
        ({"StringNotEquals": {"ec2:ResourceTag/Project": "x"}}, TAGGED, True),
        ({"StringNotEquals": {"ec2:ResourceTag/Project": "x"}}, {}, True),
        ({"StringNotEquals": {"ec2:ResourceTag/Project": "Chronos-Training"}}, TAGGED, False),
        ({"StringLike": {"ec2:ResourceTag/Project": "Chronos-*"}}, TAGGED, True),
        ({"StringLike": {"ec2:ResourceTag/Project": "*-chronos"}}, TAGGED, False),
        ({"Null": {"ec2:ResourceTag/Project": "true"}}, {}, True),
        ({"Null": {"ec2:ResourceTag/Project": "true"}}, TAGGED, False),
        ({"Null": {"ec2:ResourceTag/Project": False}}, TAGGED, True),
        ({"Bool": {"aws:SecureTransport": True}}, {"aws:securetransport": ("true",)}, True),
        ({"Bool": {"aws:SecureTransport": "false"}}, {"aws:securetransport": ("true",)}, False),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:*:::x"}}, {"aws:sourcearn": ("arn:aws:s3:::x",)}, True),
        ({"NumericLessThan": {"ec2:VolumeSize": "100"}}, {"ec2:volumesize": ("99",)}, True),
        ({"NumericLessThan": {"ec2:VolumeSize": "100"}}, {"ec2:volumesize": ("100",)}, False),
        ({"NumericLessThan": {"ec2:VolumeSize": "100"}}, {"ec2:volumesize": ("many",)}, False),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:tagkeys": ("a",)}, True),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:tagkeys": ("a", "c")}, False),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {"aws:tagkeys": ("a", "c")}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {}, False),
        ({"StringEquals": {"a:b": "1"}, "StringLike": {"c:d": "*"}}, {"a:b": ("1",)}, False),
        ({"StringEquals": {"a:b": "1", "c:d": "2"}}, {"a:b": ("1",), "c:d": ("2",)}, True),
    ],
)
def test_conditions(condition: dict[str, Any], context: dict[str, tuple[str, ...]], met: bool) -> None:
    assert ask(statement(Condition=condition), context=context) is met


@pytest.mark.parametrize("operator", ["DateLessThan", "IpAddress", "StringEqual", "ForSome:StringEquals"])
def test_what_is_not_known_here_only_ever_refuses(operator: str) -> None:
    condition = {operator: {"aws:x": "y"}}
    assert not ask(statement(Condition=condition), context={"aws:x": ("y",)})
    assert not ask(statement(), statement("Deny", Condition=condition), context={"aws:x": ("y",)})


def test_a_policy_of_one_bare_statement() -> None:
    bare = {"Version": "2012-10-17", "Statement": statement()}
    assert allowed([bare], Question("s3:GetObject", OBJECT))
