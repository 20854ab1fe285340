"""Permissions on the embedded AWS: the owner may do anything, everybody else what their policies say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

OBJECT = "arn:aws:s3:::rights/mine/*"
INSTANCES = "arn:aws:ec2:us-east-1:123456789012:instance/*"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": OBJECT},
        {
            "Effect": "Allow",
            "Action": "ec2:TerminateInstances",
            "Resource": INSTANCES,
            "Condition": {"StringEquals": {"ec2:ResourceTag/Project": "Rights"}},
        },
    ],
}
Client = Callable[[str], Any]


def client_with(cloud: Any, service: str, key: str, secret: str, token: str | None = None) -> Any:
    return boto3.client(
        service,
        endpoint_url=cloud.endpoint.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def owner(cloud: Any) -> Any:
    bucket = cloud.bucket("rights")
    cloud.s3.put_object(Bucket=bucket, Key="mine/a", Body=b"a")
    cloud.s3.put_object(Bucket=bucket, Key="other/a", Body=b"a")
    return cloud


@pytest.fixture(scope="module")
def user(owner: Any) -> Client:
    iam = owner.client("iam")
    iam.create_user(UserName="rights")
    managed = iam.create_policy(PolicyName="rights", PolicyDocument=json.dumps(POLICY))["Policy"]["Arn"]
    iam.attach_user_policy(UserName="rights", PolicyArn=managed)
    key = iam.create_access_key(UserName="rights")["AccessKey"]
    return lambda service: client_with(owner, service, key["AccessKeyId"], key["SecretAccessKey"])


def role(cloud: Any, name: str, principal: dict[str, str]) -> str:
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam = cloud.client("iam")
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(POLICY))
    return str(arn)


def assumed(cloud: Any, arn: str) -> dict[str, str]:
    answer = cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="session")
    found: dict[str, str] = answer["Credentials"]
    return found


def refusal(call: Callable[[], Any]) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    error, answer = caught.value.response["Error"], caught.value.response["ResponseMetadata"]
    return answer["HTTPStatusCode"], error["Code"], error["Message"]


def test_the_owner_may_do_anything(owner: Any) -> None:
    assert owner.s3.get_object(Bucket="rights", Key="other/a")["Body"].read() == b"a"


def test_a_user_may_do_what_the_attached_policy_says(user: Client) -> None:
    assert user("s3").get_object(Bucket="rights", Key="mine/a")["Body"].read() == b"a"
    user("s3").put_object(Bucket="rights", Key="mine/b", Body=b"b")


def test_s3_refuses_with_who_what_and_where(user: Client) -> None:
    for call in (
        lambda: user("s3").get_object(Bucket="rights", Key="other/a"),
        lambda: user("s3").copy_object(Bucket="rights", Key="mine/c", CopySource="rights/other/a"),
    ):
        assert refusal(call) == (
            403,
            "AccessDenied",
            "User: arn:aws:iam::123456789012:user/rights is not authorized to perform: s3:GetObject on "
            "resource: arn:aws:s3:::rights/other/a because no identity-based policy allows the s3:GetObject "
            "action",
        )


def test_what_is_missing_is_forbidden_to_those_who_may_not_list(user: Client, owner: Any) -> None:
    status, code, message = refusal(lambda: user("s3").get_object(Bucket="rights", Key="mine/none"))
    assert (status, code) == (403, "AccessDenied")
    assert "s3:ListBucket on resource: arn:aws:s3:::rights" in message
    assert refusal(lambda: user("s3").head_object(Bucket="rights", Key="mine/none"))[0] == 403
    source = {"CopySource": "rights/mine/none", "Bucket": "rights", "Key": "mine/c"}
    assert refusal(lambda: user("s3").copy_object(**source))[:2] == (403, "AccessDenied")
    missing = refusal(lambda: owner.s3.get_object(Bucket="rights", Key="mine/none"))
    assert missing[:2] == (404, "NoSuchKey")


def test_ec2_refuses_in_its_own_words(user: Client) -> None:
    status, code, message = refusal(lambda: user("ec2").describe_instances())
    assert (status, code) == (403, "UnauthorizedOperation")
    assert message.startswith("You are not authorized to perform this operation. User: arn:aws:iam::")
    assert "perform: ec2:DescribeInstances because no identity-based policy" in message


def test_a_tag_condition_tells_instances_apart(user: Client, owner: Any) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Project", "Value": "Rights"}]}]
    ours, strange = owner.boot("", TagSpecifications=tags), owner.boot("")
    try:
        ec2 = user("ec2")
        for ids in ([strange], [ours, strange]):
            status, code, message = refusal(lambda ids=ids: ec2.terminate_instances(InstanceIds=ids))
            assert (status, code) == (403, "UnauthorizedOperation")
            assert message.count(f":instance/{strange} ") == 1
        ec2.terminate_instances(InstanceIds=[ours])
        assert owner.ends_as(ours, "terminated")
    finally:
        owner.ec2.terminate_instances(InstanceIds=[ours, strange])


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("sns", lambda one: one.publish(TopicArn="arn:aws:sns:us-east-1:1:t", Message="m"), "AccessDenied"),
        ("scheduler", lambda one: one.list_schedules(), "AccessDenied"),
        ("ssm", lambda one: one.get_parameter(Name="/aws/x"), "AccessDenied"),
        ("cloudformation", lambda one: one.list_exports(), "AccessDenied"),
        ("iam", lambda one: one.list_users(), "AccessDenied"),
        ("service-quotas", lambda one: one.get_service_quota(ServiceCode="a", QuotaCode="b"), "AccessDenied"),
    ],
)
def test_every_protocol_carries_the_refusal(
    user: Client, service: str, call: Callable[[Any], Any], code: str
) -> None:
    status, said, message = refusal(lambda: call(user(service)))
    assert (status, said) == (403, code)
    assert "is not authorized to perform: " in message


def test_who_has_assumed_a_role_may_do_what_the_role_may(owner: Any) -> None:
    arn = role(owner, "rights-role", {"AWS": "arn:aws:iam::123456789012:root"})
    key = assumed(owner, arn)
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    s3 = client_with(owner, "s3", *(key[name] for name in names))
    assert s3.get_object(Bucket="rights", Key="mine/a")["Body"].read() == b"a"
    message = refusal(lambda: s3.get_object(Bucket="rights", Key="other/a"))[2]
    assert "User: arn:aws:sts::123456789012:assumed-role/rights-role/session is not" in message
    other = client_with(owner, "s3", key["AccessKeyId"], key["SecretAccessKey"], "another token")
    assert refusal(lambda: other.get_object(Bucket="rights", Key="mine/a"))[1] == "InvalidAccessKeyId"
    owner.client("iam").delete_role_policy(RoleName="rights-role", PolicyName="p")
    assert refusal(lambda: s3.get_object(Bucket="rights", Key="mine/a"))[0] == 403
    owner.client("iam").delete_role(RoleName="rights-role")
    assert refusal(lambda: s3.get_object(Bucket="rights", Key="mine/a"))[0] == 403


def test_nobody_assumes_a_role_that_trusts_a_service_or_is_not_there(owner: Any) -> None:
    arn = role(owner, "rights-service", {"Service": "ec2.amazonaws.com"})
    for wanted in (arn, arn + "-none"):
        status, code, message = refusal(lambda wanted=wanted: assumed(owner, wanted))
        assert (status, code) == (403, "AccessDenied")
        assert f"sts:AssumeRole on {wanted}" in message


def test_it_can_be_switched_off() -> None:
    from moto.core.responses import BaseResponse

    from chronos_ec2.local_cloud.gaps import access_control

    before = BaseResponse.call_action
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseResponse, "call_action", before)
        access_control.install({"CHRONOS_LOCAL_IAM": "off"})
        assert BaseResponse.call_action is before


@pytest.mark.parametrize(("service", "code"), [("s3", "InvalidAccessKeyId"), ("ec2", "AuthFailure")])
def test_a_key_that_nobody_was_given_opens_nothing(owner: Any, service: str, code: str) -> None:
    stranger = client_with(owner, service, "AKIA0123456789ABCDEF", "secret")
    call = stranger.list_buckets if service == "s3" else stranger.describe_instances
    assert refusal(call)[1] == code


def test_a_stacks_update_reaches_those_who_have_its_policy(owner: Any) -> None:
    def template(revision: int) -> str:
        allow = {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::rights/r{revision}/*",
        }
        document = {"Version": "2012-10-17", "Statement": [allow]}
        policy = {"ManagedPolicyName": "stacked", "PolicyDocument": document}
        return json.dumps({"Resources": {"P": {"Type": "AWS::IAM::ManagedPolicy", "Properties": policy}}})

    iam, stacks = owner.client("iam"), owner.client("cloudformation")
    stacks.create_stack(StackName="Stacked", TemplateBody=template(0))
    (listed,) = stacks.list_stack_resources(StackName="Stacked")["StackResourceSummaries"]
    arn = listed["PhysicalResourceId"]
    iam.create_user(UserName="stacked")
    iam.attach_user_policy(UserName="stacked", PolicyArn=arn)
    key = iam.create_access_key(UserName="stacked")["AccessKey"]
    s3 = client_with(owner, "s3", key["AccessKeyId"], key["SecretAccessKey"])
    for revision in range(1, 7):
        owner.s3.put_object(Bucket="rights", Key=f"r{revision}/a", Body=b"a")
        stacks.update_stack(StackName="Stacked", TemplateBody=template(revision))
        assert s3.get_object(Bucket="rights", Key=f"r{revision}/a")["Body"].read() == b"a"
        policy = iam.get_policy(PolicyArn=arn)["Policy"]
        assert (policy["DefaultVersionId"], policy["AttachmentCount"]) == (f"v{revision + 1}", 1)
    refused = refusal(lambda: s3.get_object(Bucket="rights", Key="r1/a"))
    assert refused[:2] == (403, "AccessDenied")
    versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
    assert [one["VersionId"] for one in versions if one["IsDefaultVersion"]] == ["v7"]
    assert len(versions) == 5
    iam.detach_user_policy(UserName="stacked", PolicyArn=arn)
    stacks.delete_stack(StackName="Stacked")
