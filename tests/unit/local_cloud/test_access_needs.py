"""Which permissions each call needs."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.datastructures import Headers

from chronos_ec2.local_cloud.access.call import Call
from chronos_ec2.local_cloud.access.needs import needs
from chronos_ec2.local_cloud.access.needs_s3 import S3Call, s3_needs

EC2 = "arn:aws:ec2:us-east-1:123456789012:"
ROLE = "arn:aws:iam::123456789012:role/x"


class Account:
    """One tagged instance, one profile."""

    def context_of(self, resource_id: str) -> dict[str, tuple[str, ...]]:
        return {"ec2:resourcetag/project": ("P",)} if resource_id == "i-1" else {}

    def role_in_profile(self, profile: str) -> str:
        return ROLE if profile == "profile" else "*"


def asked(service: str, operation: str, **parameters: Any) -> list[tuple[str, str]]:
    found = needs(Call(service, operation, parameters), Account())
    return [(question.action, question.resource) for question in found]


LAUNCH = {
    "ImageId": "ami-1",
    "InstanceType": "g5.xlarge",
    "NetworkInterfaces": [{"SubnetId": "subnet-1", "Groups": ["sg-1"]}],
    "IamInstanceProfile": {"Name": "profile"},
    "MetadataOptions": {"HttpTokens": "required"},
    "BlockDeviceMappings": [{"Ebs": {"Encrypted": True}}],
    "TagSpecifications": [
        {"ResourceType": "instance", "Tags": [{"Key": "Project", "Value": "P"}]},
        {"ResourceType": "volume", "Tags": [{"Key": "Project", "Value": "Q"}]},
    ],
}


def test_a_launch_needs_everything_that_it_makes_uses_tags_and_passes() -> None:
    assert asked("ec2", "RunInstances", **LAUNCH) == [
        ("ec2:RunInstances", f"{EC2}instance/*"),
        ("ec2:RunInstances", f"{EC2}network-interface/*"),
        ("ec2:RunInstances", f"{EC2}volume/*"),
        ("ec2:RunInstances", "arn:aws:ec2:us-east-1::image/ami-1"),
        ("ec2:RunInstances", f"{EC2}subnet/subnet-1"),
        ("ec2:RunInstances", f"{EC2}security-group/sg-1"),
        ("ec2:CreateTags", f"{EC2}instance/*"),
        ("ec2:CreateTags", f"{EC2}volume/*"),
        ("iam:PassRole", ROLE),
    ]


def test_a_spot_request_that_gets_tags_is_asked_about() -> None:
    spot = {"ResourceType": "spot-instances-request", "Tags": [{"Key": "Project", "Value": "P"}]}
    tagged = {**LAUNCH, "TagSpecifications": [*LAUNCH["TagSpecifications"], spot]}
    request = ("ec2:RunInstances", f"{EC2}spot-instances-request/*")
    assert request in asked("ec2", "RunInstances", **tagged)
    assert request not in asked("ec2", "RunInstances", **LAUNCH)


def test_a_launch_is_judged_by_its_tags_type_market_profile_and_disk() -> None:
    questions = needs(Call("ec2", "RunInstances", LAUNCH), Account())
    instance, card, disk = (dict(question.context) for question in questions[:3])
    assert instance.items() >= {
        ("aws:requesttag/project", ("P",)),
        ("aws:tagkeys", ("Project",)),
        ("ec2:instancetype", ("g5.xlarge",)),
        ("ec2:metadatahttptokens", ("required",)),
        ("ec2:instancemarkettype", ("on-demand",)),
        ("ec2:instanceprofile", ("arn:aws:iam::123456789012:instance-profile/profile",)),
    }
    assert "aws:requesttag/project" not in card
    assert disk["aws:requesttag/project"] == ("Q",)
    assert disk["ec2:encrypted"] == ("true",)
    tagging = next(question for question in questions if question.action == "ec2:CreateTags")
    assert tagging.context["ec2:createaction"] == ("RunInstances",)
    assert questions[-1].context["iam:passedtoservice"] == ("ec2.amazonaws.com",)


def test_a_bare_launch_needs_no_tags_and_no_role() -> None:
    actions = {action for action, _ in asked("ec2", "RunInstances", ImageId="ami-1", SubnetId="subnet-1")}
    assert actions == {"ec2:RunInstances"}


def test_an_unencrypted_disk_shows() -> None:
    launch = {**LAUNCH, "BlockDeviceMappings": [{"Ebs": {"Encrypted": True}}, {"Ebs": {}}]}
    disk = needs(Call("ec2", "RunInstances", launch), Account())[2]
    assert disk.context["ec2:encrypted"] == ("false",)


def test_each_instance_is_judged_by_its_own_tags() -> None:
    ours, strange = needs(Call("ec2", "TerminateInstances", {"InstanceIds": ["i-1", "i-2"]}), Account())
    assert (ours.resource, strange.resource) == (f"{EC2}instance/i-1", f"{EC2}instance/i-2")
    assert ours.context["ec2:resourcetag/project"] == ("P",)
    assert "ec2:resourcetag/project" not in strange.context


TARGET = {"RoleArn": ROLE}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("ec2", "DescribeInstances", {}), [("ec2:DescribeInstances", "*")]),
        (
            ("ec2", "GetConsoleOutput", {"InstanceId": "i-1"}),
            [("ec2:GetConsoleOutput", f"{EC2}instance/i-1")],
        ),
        (("ec2", "DeleteVolume", {"VolumeId": "vol-1"}), [("ec2:DeleteVolume", f"{EC2}volume/vol-1")]),
        (
            ("ec2", "CancelSpotInstanceRequests", {"SpotInstanceRequestIds": ["sir-1"]}),
            [("ec2:CancelSpotInstanceRequests", f"{EC2}spot-instances-request/sir-1")],
        ),
        (("sns", "Publish", {"TopicArn": "arn:topic"}), [("sns:Publish", "arn:topic")]),
        (
            ("scheduler", "CreateSchedule", {"GroupName": "G", "Name": "s", "Target": TARGET}),
            [
                ("scheduler:CreateSchedule", "arn:aws:scheduler:us-east-1:123456789012:schedule/G/s"),
                ("iam:PassRole", ROLE),
            ],
        ),
        (
            ("scheduler", "DeleteSchedule", {"Name": "s"}),
            [("scheduler:DeleteSchedule", "arn:aws:scheduler:us-east-1:123456789012:schedule/default/s")],
        ),
        (("scheduler", "ListSchedules", {"GroupName": "G"}), [("scheduler:ListSchedules", "*")]),
        (
            ("ssm", "GetParameter", {"Name": "/aws/service/x"}),
            [("ssm:GetParameter", "arn:aws:ssm:us-east-1::parameter/aws/service/x")],
        ),
        (
            ("ssm", "GetParameter", {"Name": "/mine"}),
            [("ssm:GetParameter", "arn:aws:ssm:us-east-1:123456789012:parameter/mine")],
        ),
        (
            ("service-quotas", "GetServiceQuota", {"ServiceCode": "ec2", "QuotaCode": "L-1"}),
            [("servicequotas:GetServiceQuota", "arn:aws:servicequotas:us-east-1:123456789012:ec2/L-1")],
        ),
        (("iam", "GetRole", {"RoleName": "x"}), [("iam:GetRole", ROLE)]),
        (("cloudformation", "ListExports", {}), [("cloudformation:ListExports", "*")]),
        (("sts", "GetCallerIdentity", {}), []),
    ],
)
def test_other_calls(call: tuple[str, str, dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    service, operation, parameters = call
    assert asked(service, operation, **parameters) == expected


def s3(method: str, path: str, query: str = "", *, tagged: bool = False, **headers: str) -> list[str]:
    bucket, _, key = path.partition("/")
    names = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    sent = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    found = s3_needs(S3Call(method, bucket, key, names, sent, tagged))
    return [f"{one.action.removeprefix('s3:')} {one.resource.removeprefix('arn:aws:s3:::')}" for one in found]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("GET", ""), ["ListAllMyBuckets *"]),
        (("HEAD", "b"), ["ListBucket b"]),
        (("GET", "b", "list-type=2&prefix=x"), ["ListBucket b"]),
        (("GET", "b", "versioning"), ["GetBucketVersioning b"]),
        (("GET", "b", "encryption"), ["GetEncryptionConfiguration b"]),
        (("PUT", "b"), ["CreateBucket b"]),
        (("PUT", "b", "policy"), ["PutBucketPolicy b"]),
        (("DELETE", "b"), ["DeleteBucket b"]),
        (("POST", "b", "delete"), ["DeleteObject b/*"]),
        (("GET", "b/d/k"), ["GetObject b/d/k"]),
        (("HEAD", "b/k"), ["GetObject b/k"]),
        (("GET", "b/k", "tagging"), ["GetObjectTagging b/k"]),
        (("PUT", "b/k"), ["PutObject b/k"]),
        (("PUT", "b/k", "partNumber=1&uploadId=u"), ["PutObject b/k"]),
        (("PUT", "b/k", "tagging"), ["PutObjectTagging b/k"]),
        (("POST", "b/k", "uploads"), ["PutObject b/k"]),
        (("POST", "b/k", "uploadId=u"), ["PutObject b/k"]),
        (("DELETE", "b/k", "uploadId=u"), ["AbortMultipartUpload b/k"]),
        (("DELETE", "b/k"), ["DeleteObject b/k"]),
    ],
)
def test_s3_has_actions_of_its_own(call: tuple[str, ...], expected: list[str]) -> None:
    assert s3(*call) == expected


def test_what_a_write_reads_and_tags_is_asked_for_too() -> None:
    copy = {"x_amz_copy_source": "b/staged%20one"}
    assert s3("PUT", "b/k", x_amz_tagging="a=b") == ["PutObject b/k", "PutObjectTagging b/k"]
    assert s3("PUT", "b/k", If_Match="e") == ["PutObject b/k", "GetObject b/k"]
    assert s3("DELETE", "b/k", If_Match="e") == ["DeleteObject b/k", "GetObject b/k"]
    assert s3("PUT", "b/k", If_None_Match="*") == ["PutObject b/k"]
    assert s3("PUT", "b/k", **copy) == ["PutObject b/k", "GetObject b/staged one"]
    assert s3("PUT", "b/k", tagged=True, **copy) == [
        "PutObject b/k",
        "GetObject b/staged one",
        "GetObjectTagging b/staged one",
        "PutObjectTagging b/k",
    ]
    replaced = s3("PUT", "b/k", tagged=True, x_amz_tagging_directive="REPLACE", **copy)
    assert replaced == ["PutObject b/k", "GetObject b/staged one"]
