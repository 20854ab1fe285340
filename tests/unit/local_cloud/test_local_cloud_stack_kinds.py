"""Stacks with schedule groups, topic policies, subscriptions and alarms."""

from __future__ import annotations

import json
from typing import Any

ALARM = {
    "AlarmName": "kinds-alarm",
    "AlarmDescription": "x",
    "Namespace": "AWS/EC2",
    "MetricName": "CPUUtilization",
    "Dimensions": [{"Name": "InstanceType", "Value": "g5.2xlarge"}],
    "Statistic": "SampleCount",
    "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    "Threshold": 1,
    "Period": 300,
    "TreatMissingData": "notBreaching",
    "AlarmActions": [{"Ref": "Topic"}],
}


def template(hours: int) -> str:
    """A stack that watches for so many hours; with none, it watches nothing."""
    topic = {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "kinds"}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "sns:Publish", "Resource": {"Ref": "Topic"}}
    policy = {"Topics": [{"Ref": "Topic"}], "PolicyDocument": {"Statement": [{**deny, "Sid": f"h{hours}"}]}}
    listener = {"TopicArn": {"Ref": "Topic"}, "Protocol": "email", "Endpoint": "me@example.com"}
    group = {"Name": "kinds", "Tags": [{"Key": "hours", "Value": str(hours)}]}
    resources = {
        "Topic": topic,
        "Policy": {"Type": "AWS::SNS::TopicPolicy", "Properties": policy},
        "Listener": {"Type": "AWS::SNS::Subscription", "Properties": listener},
        "Group": {"Type": "AWS::Scheduler::ScheduleGroup", "Properties": group},
    }
    if hours:
        properties = {**ALARM, "EvaluationPeriods": hours * 12}
        resources["Alarm"] = {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}
    output = {"Value": {"Fn::GetAtt": ["Group", "Arn"]}, "Export": {"Name": "kinds-group"}}
    return json.dumps({"Resources": resources, "Outputs": {"Group": output}})


def statement_ids(sns: Any, topic: str) -> list[str]:
    policy = json.loads(sns.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"])
    return [statement["Sid"] for statement in policy["Statement"]]


def scheduler_role(cloud: Any) -> str:
    allow = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": "scheduler.amazonaws.com"},
    }
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    role = cloud.client("iam").create_role(RoleName="kinds", AssumeRolePolicyDocument=trust)
    return str(role["Role"]["Arn"])


def test_a_stack_makes_changes_and_deletes_what_its_services_know(cloud: Any) -> None:
    stacks, scheduler = cloud.client("cloudformation"), cloud.client("scheduler")
    sns, alarms = cloud.client("sns"), cloud.client("cloudwatch")
    stacks.create_stack(StackName="Kinds", TemplateBody=template(2))
    group = scheduler.get_schedule_group(Name="kinds")
    exports = {export["Name"]: export["Value"] for export in stacks.list_exports()["Exports"]}
    assert exports["kinds-group"] == group["Arn"]
    (topic,) = (one["TopicArn"] for one in sns.list_topics()["Topics"] if one["TopicArn"].endswith(":kinds"))
    assert statement_ids(sns, topic) == ["h2"]
    (listener,) = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert listener["Endpoint"] == "me@example.com"
    (alarm,) = alarms.describe_alarms(AlarmNames=["kinds-alarm"])["MetricAlarms"]
    assert (alarm["EvaluationPeriods"], alarm["AlarmActions"]) == (24, [topic])

    scheduler.create_schedule(
        Name="kept",
        GroupName="kinds",
        ScheduleExpression="at(2099-01-01T00:00:00)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
            "RoleArn": scheduler_role(cloud),
        },
    )
    stacks.update_stack(StackName="Kinds", TemplateBody=template(0))
    assert scheduler.get_schedule(GroupName="kinds", Name="kept")["Name"] == "kept"
    assert statement_ids(sns, topic) == ["h0"]
    assert alarms.describe_alarms(AlarmNames=["kinds-alarm"])["MetricAlarms"] == []

    stacks.delete_stack(StackName="Kinds")
    assert "kinds" not in [one["Name"] for one in scheduler.list_schedule_groups()["ScheduleGroups"]]
    assert topic not in [one["TopicArn"] for one in sns.list_topics()["Topics"]]
    assert sns.list_subscriptions()["Subscriptions"] == []
