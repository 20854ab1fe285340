"""$0 between runs: every standing resource is of a kind that is not billed, and set up so that it is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from .templates import Template, synthesize

# Why each kind costs nothing while no instance runs. A kind that is not here fails the test: whoever adds one
# has to find out its price first.
FREE = {
    "AWS::EC2::VPC": "VPCs are not billed",
    "AWS::EC2::Subnet": "subnets are not billed; public addresses are, but only while an instance holds one",
    "AWS::EC2::RouteTable": "routing is not billed",
    "AWS::EC2::SubnetRouteTableAssociation": "routing is not billed",
    "AWS::EC2::Route": "routing is not billed",
    "AWS::EC2::InternetGateway": "internet gateways are not billed; traffic out through them is",
    "AWS::EC2::VPCGatewayAttachment": "internet gateways are not billed",
    "AWS::EC2::VPCEndpoint": "gateway endpoints are free; interface endpoints are billed by the hour",
    "AWS::EC2::SecurityGroup": "security groups are not billed",
    "AWS::EC2::SecurityGroupIngress": "security groups are not billed",
    "AWS::EC2::SecurityGroupEgress": "security groups are not billed",
    "AWS::EC2::PlacementGroup": "placement groups are not billed",
    "AWS::S3::Bucket": "an empty bucket is free; what it stores is billed by the gigabyte",
    "AWS::S3::BucketPolicy": "bucket policies are not billed",
    "AWS::IAM::Role": "IAM is free",
    "AWS::IAM::InstanceProfile": "IAM is free",
    "AWS::IAM::ManagedPolicy": "IAM is free",
    "AWS::Scheduler::ScheduleGroup": "groups and schedules are free, and 14 million invocations a month",
    "AWS::SNS::Topic": "topics are free, and a million publications a month; a KMS key is not",
    "AWS::SNS::TopicPolicy": "part of the topic",
    "AWS::SNS::Subscription": "subscriptions are free, and 1000 e-mails a month",
}
# Properties with which a kind above would be billed, idle or not; None: must not be there.
FREE_WITH: dict[str, dict[str, str | None]] = {
    "AWS::EC2::VPCEndpoint": {"VpcEndpointType": "Gateway"},
    "AWS::SNS::Topic": {"KmsMasterKeyId": None},
    "AWS::S3::Bucket": {
        "MetricsConfigurations": None,
        "InventoryConfigurations": None,
        "AnalyticsConfigurations": None,
        "ReplicationConfiguration": None,
    },
}
BILLED: dict[str, dict[str, Any]] = {
    "NAT gateway": {"Type": "AWS::EC2::NatGateway"},
    "address": {"Type": "AWS::EC2::EIP"},
    "load balancer": {"Type": "AWS::ElasticLoadBalancingV2::LoadBalancer"},
    "database": {"Type": "AWS::RDS::DBInstance"},
    "table": {"Type": "AWS::DynamoDB::Table"},
    "function that CDK adds": {"Type": "Custom::VpcRestrictDefaultSG"},
    "interface endpoint": {"Type": "AWS::EC2::VPCEndpoint", "Properties": {"VpcEndpointType": "Interface"}},
    "endpoint of no type": {"Type": "AWS::EC2::VPCEndpoint", "Properties": {}},
    "instance": {"Type": "AWS::EC2::Instance"},
    "volume": {"Type": "AWS::EC2::Volume"},
    "file system": {"Type": "AWS::EFS::FileSystem"},
    "key": {"Type": "AWS::KMS::Key"},
    "topic with a key": {"Type": "AWS::SNS::Topic", "Properties": {"KmsMasterKeyId": "alias/mine"}},
    "bucket with request metrics": {
        "Type": "AWS::S3::Bucket",
        "Properties": {"MetricsConfigurations": [{"Id": "EntireBucket"}]},
    },
    "dashboard": {"Type": "AWS::CloudWatch::Dashboard"},
    "alarm": {"Type": "AWS::CloudWatch::Alarm"},
}


def billed(template: Template) -> set[str]:
    """The kinds in a template that cost something while nothing runs."""
    found = set()
    for resource in template["Resources"].values():
        kind, properties = resource["Type"], resource.get("Properties", {})
        as_it_must_be = FREE_WITH.get(kind, {})
        if kind not in FREE or any(properties.get(key) != value for key, value in as_it_must_be.items()):
            found.add(kind)
    return found


def test_every_standing_resource_is_free_while_idle(default_template: Template) -> None:
    assert billed(default_template) == set()


def test_no_setting_makes_it_cost_but_the_alarms(custom_template: Template) -> None:
    assert billed(custom_template) == {"AWS::CloudWatch::Alarm"}


def test_without_its_alarms_everything_optional_is_free_too() -> None:
    template = synthesize(availability_zones=6, notify_email="me@example.com", nodes=2)
    assert billed(template) == set()
    assert {one["Type"] for one in template["Resources"].values()} == FREE.keys(), "a reason for what is gone"


@pytest.mark.parametrize("what", BILLED)
def test_what_costs_while_idle_would_be_found(default_template: Template, what: str) -> None:
    template = copy.deepcopy(default_template)
    template["Resources"]["Extra"] = BILLED[what]
    assert billed(template) == {BILLED[what]["Type"]}
