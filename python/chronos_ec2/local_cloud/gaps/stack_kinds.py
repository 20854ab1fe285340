"""Kinds of resources that CloudFormation makes.

Real CloudFormation makes schedule groups, topic policies, subscriptions, alarms, placement groups and egress
rules that stand by themselves. moto's leaves these kinds out of a stack with a warning, and an output that
names one fails; its services themselves know them, placement groups apart (placement_groups.py). An e-mail
subscription waits for its confirmation, here as on AWS. What changes in an update is deleted and made anew,
except a schedule group, which has nothing but its tags to change and keeps its schedules.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from moto.cloudformation import parsing
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends
from moto.scheduler.models import scheduler_backends
from moto.sns.models import sns_backends

from chronos_ec2.local_cloud.gaps import around
from chronos_ec2.local_cloud.gaps.placement_groups import GROUPS

Properties = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a resource lives, and what it may call itself."""

    account_id: str
    region: str
    name: str


@dataclass(frozen=True, slots=True)
class Made:
    """A resource that was made: what Ref and GetAtt give, and how it goes."""

    ref: str
    attributes: dict[str, str]
    delete: Callable[[], object]


class _Kind(CloudFormationModel):
    """What moto asks of every kind."""

    TYPE: ClassVar[str] = ""
    NAME_PROPERTY: ClassVar[str] = ""

    def __init__(self, made: Made) -> None:
        self._made = made

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        """Make the resource by its own service."""
        raise NotImplementedError

    @classmethod
    def cloudformation_type(cls) -> str:
        """The kind, as templates name it."""
        return cls.TYPE

    @classmethod
    def cloudformation_name_type(cls) -> str:
        """The property that names the resource; moto makes a name up where there is none."""
        return cls.NAME_PROPERTY

    @property
    def physical_resource_id(self) -> str:
        """What Ref gives."""
        return self._made.ref

    def get_cfn_attribute(self, name: str) -> str:
        """What GetAtt gives."""
        return self._made.attributes[name]

    def delete(self, _account_id: str, _region: str) -> None:
        """Undo `make`."""
        self._made.delete()

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr in ("Arn", "Id", "GroupName")

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_kwargs: Any
    ) -> _Kind:
        place = Place(account_id, region_name, resource_name)
        return cls(cls.make(place, cloudformation_json["Properties"]))

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> Any:
        original_resource.delete(account_id, region_name)
        return cls.create_from_cloudformation_json(
            new_resource_name, cloudformation_json, account_id, region_name
        )


class _ScheduleGroup(_Kind):
    TYPE, NAME_PROPERTY = "AWS::Scheduler::ScheduleGroup", "Name"

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        backend = scheduler_backends[place.account_id][place.region]
        group = backend.create_schedule_group(place.name, properties.get("Tags", []))
        return Made(place.name, {"Arn": group.arn}, lambda: backend.delete_schedule_group(place.name))

    @classmethod
    def update_from_cloudformation_json(cls, original_resource: Any, **_kwargs: Any) -> Any:  # type: ignore[override]
        return original_resource


class _TopicPolicy(_Kind):
    TYPE = "AWS::SNS::TopicPolicy"

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        topics = [sns_backends[place.account_id][place.region].get_topic(arn) for arn in properties["Topics"]]
        before = [topic.policy for topic in topics]
        for topic in topics:
            topic.policy = json.dumps(properties["PolicyDocument"])

        def restore() -> None:
            for topic, policy in zip(topics, before, strict=True):
                topic.policy = policy

        return Made(place.name, {"Id": place.name}, restore)


class _Subscription(_Kind):
    TYPE = "AWS::SNS::Subscription"

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        backend = sns_backends[place.account_id][place.region]
        made = backend.subscribe(properties["TopicArn"], properties["Endpoint"], properties["Protocol"])
        return Made(made.arn, {"Arn": made.arn}, lambda: backend.unsubscribe(made.arn))


class _Alarm(_Kind):
    TYPE, NAME_PROPERTY = "AWS::CloudWatch::Alarm", "AlarmName"

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        backend = cloudwatch_backends[place.account_id][place.region]
        alarm = backend.put_metric_alarm(
            name=place.name,
            namespace=properties["Namespace"],
            metric_name=properties["MetricName"],
            comparison_operator=properties["ComparisonOperator"],
            evaluation_periods=properties["EvaluationPeriods"],
            period=properties["Period"],
            threshold=properties["Threshold"],
            statistic=properties["Statistic"],
            description=properties["AlarmDescription"],
            dimensions=properties["Dimensions"],
            alarm_actions=properties["AlarmActions"],
            treat_missing_data=properties["TreatMissingData"],
        )
        return Made(place.name, {"Arn": alarm.alarm_arn}, lambda: backend.delete_alarms([place.name]))


class _PlacementGroup(_Kind):
    TYPE, NAME_PROPERTY = "AWS::EC2::PlacementGroup", "GroupName"

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        group = (place.account_id, place.region, place.name)
        GROUPS.add(group)
        return Made(place.name, {"GroupName": place.name}, lambda: GROUPS.discard(group))


class _EgressRule(_Kind):
    TYPE = "AWS::EC2::SecurityGroupEgress"

    @staticmethod
    def make(place: Place, properties: Properties) -> Made:
        ec2 = ec2_backends[place.account_id][place.region]
        rule = {
            "group_name_or_id": properties["GroupId"],
            "ip_protocol": str(properties["IpProtocol"]),
            "from_port": properties.get("FromPort"),
            "to_port": properties.get("ToPort"),
            "ip_ranges": [],
            "source_groups": [{"GroupId": properties["DestinationSecurityGroupId"]}],
        }
        ec2.authorize_security_group_egress(**rule)

        def revoke() -> None:
            # It goes with its group, when the stack deletes that first.
            if ec2.get_security_group_from_id(properties["GroupId"]) is not None:
                ec2.revoke_security_group_egress(**rule)

        return Made(place.name, {"Id": place.name}, revoke)


_KINDS: Final = (_ScheduleGroup, _TopicPolicy, _Subscription, _Alarm, _PlacementGroup, _EgressRule)


def install() -> None:
    """Make moto's CloudFormation know these kinds too."""
    around(parsing, "get_model_list", lambda known: lambda: [*known(), *_KINDS])
