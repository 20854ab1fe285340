"""What becomes of a run when its instance lacks one permission: it says which, and nothing is left running.

Each action of the instance's role is taken away in turn, and a whole run launched. All of them take twelve
minutes, or twice that on busy cores; the suite takes away one that ends a run and one that it can do without:

    python -m pytest tests/e2e/test_permissions.py --every-permission
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from chronos_ec2.exit_codes import ExitCode

from .conftest import Cloud

ROLE_POLICY = "ChronosTraining"


@dataclass(frozen=True)
class Case:
    """One permission less.

    Attributes:
        code: what `watch` ends with.
        words: what the run's record, its log or its console say.
        always: whether the suite's short form tries it.
    """

    sid: str
    action: str
    code: ExitCode
    words: str
    always: bool = False


CASES = [
    Case("S3ListBucket", "s3:ListBucket", ExitCode.RUN_LOST, "s3:ListBucket"),
    Case("S3ReadAccess", "s3:GetObject", ExitCode.RUN_LOST, "s3:GetObject"),
    Case("S3WriteAccess", "s3:GetObject", ExitCode.RUN_LOST, "s3:GetObject"),
    Case("S3WriteAccess", "s3:PutObject", ExitCode.RUN_LOST, "s3:PutObject", always=True),
    Case("S3WriteAccess", "s3:DeleteObject", ExitCode.OK, "s3:DeleteObject"),
    Case("S3WriteAccess", "s3:GetObjectTagging", ExitCode.OK, ""),
    # Its log is a result as well, and carries a tag that lets it expire.
    Case("S3WriteAccess", "s3:PutObjectTagging", ExitCode.RUN_FAILED, "s3:PutObjectTagging"),
    Case("S3WriteAccess", "s3:AbortMultipartUpload", ExitCode.OK, ""),
    Case("EC2SelfManagement", "ec2:TerminateInstances", ExitCode.OK, "ec2:TerminateInstances"),
    Case("EC2Describe", "ec2:DescribeInstances", ExitCode.OK, ""),
    Case("SNSNotices", "sns:Publish", ExitCode.OK, "sns:Publish"),
]


def role_name(cloud: Cloud) -> str:
    """The role in the stack's profile."""
    iam = cloud.aws.client("iam")
    profile = iam.get_instance_profile(InstanceProfileName="ChronosTrainingInstanceProfile")
    return str(profile["InstanceProfile"]["Roles"][0]["RoleName"])


@contextmanager
def taken_away(cloud: Cloud, case: Case) -> Iterator[None]:
    """The role without the permission, for a while."""
    iam, role = cloud.aws.client("iam"), role_name(cloud)
    whole = iam.get_role_policy(RoleName=role, PolicyName=ROLE_POLICY)["PolicyDocument"]
    less = copy.deepcopy(whole)
    (statement,) = (one for one in less["Statement"] if one["Sid"] == case.sid)
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    assert case.action in actions
    # A statement needs an action; this one allows nothing.
    statement["Action"] = [one for one in actions if one != case.action] or ["none:None"]
    iam.put_role_policy(RoleName=role, PolicyName=ROLE_POLICY, PolicyDocument=json.dumps(less))
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=ROLE_POLICY, PolicyDocument=json.dumps(whole))


@pytest.fixture(scope="module")
def listener(cloud: Cloud) -> Iterator[None]:
    """Somebody who hears notices: without one, none is sent."""
    sns = cloud.aws.client("sns")
    queue = "arn:aws:sqs:us-east-1:123456789012:permissions"
    listening = sns.subscribe(TopicArn=cloud.aws.topic_arn, Protocol="sqs", Endpoint=queue)["SubscriptionArn"]
    cloud.aws.client("sqs").create_queue(QueueName="permissions")
    yield
    sns.unsubscribe(SubscriptionArn=listening)


def said(cloud: Cloud, launched: dict[str, Any]) -> str:
    """Everything that the run has left in words: its record, its log, its machine's console."""
    record = json.dumps(cloud.record(launched["run_id"]))
    log = cloud.invoke("logs", "--env", "local", "--run", launched["run_id"]).stdout
    console = cloud.aws.ec2.get_console_output(InstanceId=launched["instance_id"]).get("Output", "")
    return "\n".join((record, log, console))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-permission", False)
    if "case" in metafunc.fixturenames:
        cases = [case for case in CASES if every or case.always]
        metafunc.parametrize("case", cases, ids=[f"{one.sid}-{one.action}" for one in cases])


@pytest.mark.usefixtures("listener", "quick_aws")
def test_a_run_without_one_permission_says_so_and_leaves_no_machine(cloud: Cloud, case: Case) -> None:
    trainer = ("--set", "trainer=command", "--set", 'command=["true"]')
    with taken_away(cloud, case):
        launched = cloud.launch(*trainer)
        watched = cloud.follow(launched["run_id"], timeout=900)
        words = said(cloud, launched)
        cloud.invoke("kill", "--env", "local", "--yes")
    print(watched.stdout[-3000:], words[-6000:], sep="\n---\n")
    assert watched.returncode == case.code
    assert case.words in words
    cloud.assert_nothing_left()
