"""cdk-nag's AwsSolutions rules over everything that the stack can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .templates import EVERYTHING


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rule pack's report on the stack, and beside it on a topic and a policy that break rules."""
    import aws_cdk as cdk
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_sns as sns
    from cdk_nag import AwsSolutionsChecks

    from chronos_cdk.settings import StackSettings
    from chronos_cdk.stack import ChronosTrainingStack

    out = tmp_path_factory.mktemp("nag")
    app = cdk.App(analytics_reporting=False, outdir=str(out))
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    stack = ChronosTrainingStack(app, "ChronosTraining", settings=StackSettings(**EVERYTHING))
    strange = cdk.Stack(app, "Strange", synthesizer=cdk.BootstraplessSynthesizer())
    sns.Topic(strange, "Topic")
    role = stack.node.find_child("Identity").node.find_child("Role")
    iam.Policy(
        stack,
        "MoreForTheInstance",
        roles=[role],
        statements=[iam.PolicyStatement(actions=["ec2:CreateTags"], resources=["*"])],
    )
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    (found,) = json.loads(Path(out / "validation-report.json").read_text())["pluginReports"]
    return dict(found)


def places(violation: dict[str, Any]) -> list[tuple[str, str]]:
    return [(violation["ruleName"], one["constructPath"]) for one in violation["violatingConstructs"]]


def test_no_rule_is_broken_but_by_what_was_put_there_to_be_found(report: dict[str, Any]) -> None:
    assert {place for violation in report["violations"] for place in places(violation)} == {
        ("AwsSolutions-SNS3", "Strange/Topic/Resource"),
        ("AwsSolutions-IAM5[Resource::*]", "ChronosTraining/MoreForTheInstance/Resource"),
    }


def test_every_suppression_has_a_reason_and_a_place_of_its_own(report: dict[str, Any]) -> None:
    suppressed = report["suppressedViolations"]
    assert {violation["ruleName"].partition("[")[0] for violation in suppressed} == {
        "AwsSolutions-VPC7",
        "AwsSolutions-S1",
        "AwsSolutions-IAM5",
    }
    for violation in suppressed:
        assert len(violation["reason"]) > 20, violation["ruleName"]
        # Not on the stack: a suppression there would hold for whatever is added.
        assert violation["acknowledgedAt"].count("/") >= 1
