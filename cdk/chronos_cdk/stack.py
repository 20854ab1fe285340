"""The one stack: wires network, storage, identity, switch and notices, and exports what a launch needs."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import Construct

from chronos_cdk.alarms import LifetimeAlarms
from chronos_cdk.cluster import TrainingCluster
from chronos_cdk.identity import PROJECT_TAG_VALUE, InstanceIdentity
from chronos_cdk.launcher import LauncherPolicy
from chronos_cdk.network import TrainingNetwork
from chronos_cdk.notices import Notices
from chronos_cdk.outside_switch import OutsideSwitch
from chronos_cdk.settings import StackSettings
from chronos_cdk.storage import TrainingBucket

EXPORT_PREFIX = "ChronosTraining"


class ChronosTrainingStack(cdk.Stack):
    """Everything that stands between runs. All of it is free; the bucket costs what it stores.

    The alarms are the one exception, and are made only for who asks for them.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: StackSettings) -> None:
        super().__init__(
            scope,
            construct_id,
            description="Chronos EC2 Training: network, bucket and instance identity; $0 while idle",
            # No bootstrap stack needed in the account: the app has no assets to stage.
            synthesizer=cdk.BootstraplessSynthesizer(),
            analytics_reporting=False,
        )
        network = TrainingNetwork(self, "Network", availability_zones=settings.availability_zones)
        cluster = TrainingCluster(self, "Cluster", vpc=network.vpc) if settings.nodes > 1 else None
        storage = TrainingBucket(
            self,
            "Storage",
            environments=settings.environments,
            log_retention_days=settings.log_retention_days,
            glacier_after_days=settings.glacier_after_days,
        )
        notices = Notices(self, "Notices", email=settings.notify_email)
        identity = InstanceIdentity(
            self, "Identity", bucket=storage.bucket, environments=settings.environments, notices=notices
        )
        switch = OutsideSwitch(self, "OutsideSwitch")
        launcher = LauncherPolicy(
            self,
            "Launcher",
            bucket=storage.bucket,
            network=network,
            cluster=cluster,
            identity=identity,
            switch=switch,
            notices=notices,
        )
        if settings.alarm_hours:
            LifetimeAlarms(
                self,
                "LifetimeAlarms",
                hours=settings.alarm_hours,
                instance_types=settings.instance_types,
                notices=notices,
            )
        cdk.Tags.of(self).add("Project", PROJECT_TAG_VALUE)
        self._export("BucketName", storage.bucket.bucket_name)
        self._export("SubnetIds", ",".join(subnet.subnet_id for subnet in network.vpc.public_subnets))
        self._export("SecurityGroupId", network.security_group.security_group_id)
        self._export("InstanceProfileName", identity.instance_profile.instance_profile_name)
        self._export("VpcId", network.vpc.vpc_id)
        self._export("ScheduleGroupName", switch.group.ref)
        self._export("SchedulerRoleArn", switch.role.role_arn)
        self._export("TopicArn", notices.topic.topic_arn)
        self._export("LauncherPolicyArn", launcher.policy.managed_policy_arn)
        if cluster is not None:
            self._export("ClusterSecurityGroupId", cluster.security_group.security_group_id)
            self._export("PlacementGroupName", cluster.placement_group.placement_group_name)
        self._say_what_destroy_keeps(storage.bucket.bucket_name)

    def _export(self, name: str, value: str) -> None:
        cdk.CfnOutput(self, name, value=value, export_name=f"{EXPORT_PREFIX}-{name}")

    def _say_what_destroy_keeps(self, bucket_name: str) -> None:
        cdk.CfnOutput(
            self,
            "KeptByDestroy",
            value=f"the bucket and its models; to delete them: aws s3 rb --force s3://{bucket_name}",
        )
