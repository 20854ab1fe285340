"""The role is what an instance does, no less and no more: each call that it makes is held against it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from chronos_ec2.local_cloud.access.call import Call
from chronos_ec2.local_cloud.access.needs import needs
from chronos_ec2.local_cloud.access.needs_s3 import S3Call, s3_needs
from chronos_ec2.local_cloud.access.policy import Question, allowed

from .templates import Template, listed, named
from .test_iam_accepts import MADE, resolved

REGION = "ap-southeast-1"
BUCKET = MADE["AWS::S3::Bucket"].rpartition(":")[2]
TOPIC = MADE["AWS::SNS::Topic"]
OURS = {"ec2:resourcetag/project": ("Chronos-Training",)}


class Account:
    """An account with a machine of this project and one of another."""

    def context_of(self, resource_id: str) -> dict[str, tuple[str, ...]]:
        return OURS if resource_id == "i-ours" else {"ec2:resourcetag/project": ("Other",)}

    def role_in_profile(self, profile: str) -> str:
        return "*"


def s3(method: str, key: str, *query: str, tagged: bool = False, **headers: str) -> list[Question]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return s3_needs(S3Call(method, BUCKET, key, dict.fromkeys(query, "1"), sent, tagged))


def api(service: str, operation: str, **parameters: Any) -> list[Question]:
    return needs(Call(service, operation, parameters, region=REGION), Account())


STAGED = {"x-amz-copy-source": f"{BUCKET}/dev/system-state.json.tmp-1"}
# Everything that an instance asks AWS for, by the part that asks.
CALLS: dict[str, list[Question]] = {
    "user data lists the scripts": s3("GET", "", "list-type"),
    "user data fetches a script": s3("GET", "cached-datasets/scripts/bootstrap.sh"),
    "bootstrap fetches the environment": s3("GET", "cached-datasets/python-env/env.tar.gz"),
    "data sync fetches a file": s3("GET", "cached-datasets/training-data/a.parquet"),
    "a state write stages": s3("PUT", "dev/system-state.json.tmp-1"),
    "a state write publishes": s3("PUT", "dev/system-state.json", If_Match='"e"', **STAGED),
    "a state write drops what it staged": s3("DELETE", "dev/system-state.json.tmp-1"),
    "the state is read": s3("GET", "dev/system-state.json"),
    "the state is deleted at the end": s3("DELETE", "dev/system-state.json", If_Match='"e"'),
    "the log is uploaded, as a log": s3("PUT", "dev/r/logs/bootstrap.log", x_amz_tagging="chronos-class=log"),
    "a model is uploaded in parts": s3("POST", "dev/r/models/model.pkl", "uploads", x_amz_tagging="a=b"),
    "an upload in parts is given up": s3("DELETE", "dev/r/models/model.pkl", "uploadId"),
    "the record is amended": s3("PUT", "dev/r/run.json", If_Match='"e"'),
    "the phases are recorded": s3("PUT", "logs/r/phase_logs.json"),
    "what carries a tag is copied": s3("PUT", "dev/r/copy", tagged=True, **STAGED),
    "bootstrap ends its machine": api("ec2", "TerminateInstances", InstanceIds=["i-ours"]),
    "the topic is told": api("sns", "Publish", TopicArn=TOPIC),
}
# What the architecture grants and nothing on an instance asks for today.
GRANTED_ANYWAY = {"ec2:DescribeInstances"}


@pytest.fixture
def policy(default_template: Template) -> dict[str, Any]:
    role = named(default_template, "Identity", "AWS::IAM::Role")
    document = resolved(default_template, role["Properties"]["Policies"][0]["PolicyDocument"])
    return dict(document)


def without(policy: dict[str, Any], sid: str, action: str) -> dict[str, Any]:
    """The policy less one action of one statement."""
    found = copy.deepcopy(policy)
    for statement in found["Statement"]:
        if statement["Sid"] == sid:
            statement["Action"] = [one for one in listed(statement["Action"]) if one != action]
    return found


@pytest.mark.parametrize("what", CALLS)
def test_an_instance_may_do_what_it_does(policy: dict[str, Any], what: str) -> None:
    assert [question for question in CALLS[what] if not allowed([policy], question)] == []


def test_each_action_of_the_role_is_missed_by_some_call_when_it_is_taken_away(policy: dict[str, Any]) -> None:
    unused = set()
    for statement in policy["Statement"]:
        for action in listed(statement["Action"]):
            less = without(policy, statement["Sid"], action)
            missed = [what for what, asked in CALLS.items() if not all(allowed([less], one) for one in asked)]
            if not missed:
                unused.add(action)
    assert unused == GRANTED_ANYWAY


BEYOND: dict[str, list[Question]] = {
    "another environment's state": s3("PUT", "team-b/system-state.json"),
    "the shared inputs": s3("PUT", "cached-datasets/scripts/bootstrap.sh"),
    "another bucket": s3_needs(S3Call("GET", "other", "k", {}, {})),
    "the bucket's policy": s3("PUT", "", "policy"),
    "another project's machine": api("ec2", "TerminateInstances", InstanceIds=["i-other"]),
    "its own machine and another's": api("ec2", "TerminateInstances", InstanceIds=["i-ours", "i-other"]),
    "tags": api("ec2", "CreateTags", Resources=["i-other"], Tags=[{"Key": "Project", "Value": "x"}]),
    "a new machine": api("ec2", "RunInstances", ImageId="ami-1", SubnetId="subnet-1"),
    "its own switch": api("scheduler", "DeleteSchedule", GroupName="ChronosTraining", Name="chronos-dev-r"),
    "another topic": api("sns", "Publish", TopicArn=TOPIC + "2"),
    "who listens": api("sns", "Subscribe", TopicArn=TOPIC),
    "another role": api("sts", "AssumeRole", RoleArn="arn:aws:iam::123456789012:role/Admin"),
    "its own rights": api("iam", "PutRolePolicy", RoleName="ChronosTraining-x"),
}


@pytest.mark.parametrize("what", BEYOND)
def test_an_instance_may_do_nothing_else(policy: dict[str, Any], what: str) -> None:
    assert not all(allowed([policy], question) for question in BEYOND[what])
