"""Notices: the topic that hears how a run goes, and the e-mail address that may listen to it."""

from __future__ import annotations

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

TOPIC_NAME = "ChronosTraining"
DISPLAY_NAME = "Chronos Training"


class Notices(Construct):
    """A topic, free while nobody publishes; the first 1000 e-mails a month are free too.

    It has no KMS key: a key of one's own costs $1 a month, and with the account's `aws/sns` key CloudWatch
    alarms cannot publish, since nobody may change that key's policy. A notice holds a run id, an outcome and
    a cost, and SNS keeps its disks encrypted anyway. Publishing takes TLS.

    Attributes:
        topic: The topic.
    """

    def __init__(self, scope: Construct, construct_id: str, *, email: str) -> None:
        super().__init__(scope, construct_id)
        self.topic = sns.Topic(
            self, "Topic", topic_name=TOPIC_NAME, display_name=DISPLAY_NAME, enforce_ssl=True
        )
        if email:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))

    def publish_statement(self) -> iam.PolicyStatement:
        """What a role needs to send notices: this topic, nothing else."""
        return iam.PolicyStatement(
            sid="SNSNotices", actions=["sns:Publish"], resources=[self.topic.topic_arn]
        )

    def let_alarms_publish(self) -> None:
        """Admit this account's CloudWatch alarms, which publish as a service and not as a role."""
        stack = Stack.of(self)
        alarms = stack.format_arn(
            service="cloudwatch",
            resource="alarm",
            resource_name="*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="CloudWatchAlarms",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={
                    "StringEquals": {"aws:SourceAccount": stack.account},
                    "ArnLike": {"aws:SourceArn": alarms},
                },
            )
        )
