"""The dead man's switch outside the machine, the topic, and the alarms that are only there when asked for."""

from __future__ import annotations

from typing import Any

import pytest

from .templates import Template, flat, named, of_type, only, statements, synthesize

INSTANCES = "arn:<AWS::Partition>:ec2:<AWS::Region>:<AWS::AccountId>:instance/*"


@pytest.fixture
def scheduler_role(default_template: Template) -> dict[str, Any]:
    return named(default_template, "OutsideSwitch", "AWS::IAM::Role")


def test_scheduler_may_terminate_instances_of_this_project_and_nothing_else(
    scheduler_role: dict[str, Any],
) -> None:
    (statement,) = statements(scheduler_role).values()
    assert statement == {
        "actions": {"ec2:TerminateInstances"},
        "resources": {INSTANCES},
        "condition": {"StringEquals": {"ec2:ResourceTag/Project": "Chronos-Training"}},
        "effect": "Allow",
    }
    assert "ManagedPolicyArns" not in scheduler_role["Properties"]


def test_only_schedules_of_this_account_and_group_act_in_the_role(
    default_template: Template, scheduler_role: dict[str, Any]
) -> None:
    resources = default_template["Resources"].items()
    (group,) = (name for name, one in resources if one["Type"] == "AWS::Scheduler::ScheduleGroup")
    (trust,) = scheduler_role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"] == {
        "StringEquals": {
            "aws:SourceAccount": {"Ref": "AWS::AccountId"},
            "aws:SourceArn": {"Fn::GetAtt": [group, "Arn"]},
        }
    }


def test_the_group_has_a_name_of_its_own(default_template: Template) -> None:
    assert only(default_template, "AWS::Scheduler::ScheduleGroup")["Properties"]["Name"] == "ChronosTraining"


def test_nobody_is_subscribed_unless_an_address_is_given(
    default_template: Template, custom_template: Template
) -> None:
    assert of_type(default_template, "AWS::SNS::Subscription") == []
    subscription = only(custom_template, "AWS::SNS::Subscription")["Properties"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "me@example.com")


def topic_statements(template: Template) -> list[dict[str, Any]]:
    policy = only(template, "AWS::SNS::TopicPolicy")["Properties"]["PolicyDocument"]
    found: list[dict[str, Any]] = policy["Statement"]
    return found


def test_the_topic_refuses_plain_http_and_admits_nobody_by_its_own_policy(default_template: Template) -> None:
    (statement,) = topic_statements(default_template)
    assert (statement["Effect"], statement["Action"]) == ("Deny", "sns:Publish")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_with_alarms_the_topic_admits_this_accounts_alarms(custom_template: Template) -> None:
    _, statement = topic_statements(custom_template)
    assert (statement["Effect"], statement["Action"]) == ("Allow", "sns:Publish")
    assert statement["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    alarms = flat(statement["Condition"]["ArnLike"]["aws:SourceArn"])
    assert alarms == "arn:<AWS::Partition>:cloudwatch:<AWS::Region>:<AWS::AccountId>:alarm:*"


def test_there_is_no_alarm_unless_asked_for(default_template: Template) -> None:
    assert of_type(default_template, "AWS::CloudWatch::Alarm") == []


def test_one_alarm_a_type_counts_its_minutes_alive_and_tells_the_topic(custom_template: Template) -> None:
    alarms = [alarm["Properties"] for alarm in of_type(custom_template, "AWS::CloudWatch::Alarm")]
    assert [alarm["Dimensions"] for alarm in alarms] == [
        [{"Name": "InstanceType", "Value": "g4dn.2xlarge"}],
        [{"Name": "InstanceType", "Value": "g5.2xlarge"}],
    ]
    (topic,) = (n for n, one in custom_template["Resources"].items() if one["Type"] == "AWS::SNS::Topic")
    for alarm in alarms:
        assert alarm["AlarmActions"] == [{"Ref": topic}]
        assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/EC2", "CPUUtilization")
        assert (alarm["Statistic"], alarm["ComparisonOperator"], alarm["Threshold"]) == (
            "SampleCount",
            "GreaterThanOrEqualToThreshold",
            1,
        )
        assert alarm["TreatMissingData"] == "notBreaching", "no machine is how it should be"


@pytest.mark.parametrize(("hours", "period"), [(1, 300), (24, 300), (25, 3600), (168, 3600)])
def test_an_alarm_looks_back_exactly_its_hours_and_no_farther_than_cloudwatch_can(
    hours: int, period: int
) -> None:
    alarm = only(synthesize(alarm_hours=hours, instance_types=("g5.2xlarge",)), "AWS::CloudWatch::Alarm")
    properties = alarm["Properties"]
    assert properties["Period"] == period
    assert properties["Period"] * properties["EvaluationPeriods"] == hours * 3600
    # CloudWatch: 86,400 seconds with periods of less than an hour, 604,800 with longer ones.
    assert hours * 3600 <= (86_400 if period < 3600 else 604_800)
