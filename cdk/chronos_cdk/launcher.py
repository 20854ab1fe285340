"""What the person needs who launches runs and looks after them: one policy, to attach to whom you like."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from chronos_cdk.cluster import TrainingCluster
from chronos_cdk.identity import PROJECT_TAG_VALUE, InstanceIdentity
from chronos_cdk.nag import acknowledge_wildcard
from chronos_cdk.network import TrainingNetwork
from chronos_cdk.notices import Notices
from chronos_cdk.outside_switch import SCHEDULE_GROUP_NAME, SCHEDULER, OutsideSwitch

LAUNCHER_POLICY_NAME = "ChronosTrainingLauncher"
EC2 = "ec2.amazonaws.com"
_OURS = {"StringEquals": {"aws:ResourceTag/Project": PROJECT_TAG_VALUE}}
_TAGGED = {"StringEquals": {"aws:RequestTag/Project": PROJECT_TAG_VALUE}}
# Whose quotas a launch may meet: of vCPUs, and of disks.
_LIMITING = ("ec2", "ebs")
# These know no resources, so a policy can only allow them altogether. They read, and tell of no secret.
_LOOKS = (
    "cloudformation:ListExports",
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeInternetGateways",
    "ec2:DescribeRegions",
    "ec2:DescribeRouteTables",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotInstanceRequests",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "ec2:DescribeVpcEndpoints",
    "pricing:GetProducts",
    "scheduler:ListSchedules",
    "servicequotas:GetAWSDefaultServiceQuota",
    "sts:DecodeAuthorizationMessage",
)


class LauncherPolicy(Construct):
    """Leave to launch, watch, kill, reap, upload, fetch and ask the doctor. To deploy takes an administrator.

    Whoever has it can start machines in the stack's subnets alone, with the stack's role and the project's
    tag, and can end, read or delete only what carries that tag. They cannot hand out rights.

    Attributes:
        policy: The managed policy.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: s3.IBucket,
        network: TrainingNetwork,
        cluster: TrainingCluster | None,
        identity: InstanceIdentity,
        switch: OutsideSwitch,
        notices: Notices,
    ) -> None:
        super().__init__(scope, construct_id)
        self.policy = iam.ManagedPolicy(
            self,
            "Policy",
            managed_policy_name=LAUNCHER_POLICY_NAME,
            description="Launch Chronos training runs and look after them",
            statements=[
                iam.PolicyStatement(sid="Look", actions=list(_LOOKS), resources=["*"]),
                *self._of_the_stack(bucket, identity, switch, notices),
                *self._start(network, cluster),
                *self._pass_roles(identity, switch),
                self._end(),
                self._schedule(),
                *self._objects(bucket),
            ],
        )
        self._acknowledge(bucket)

    def _arn(self, resource: str, *, service: str = "ec2", account: str | None = None) -> str:
        kind, _, name = resource.partition("/")
        return Stack.of(self).format_arn(service=service, resource=kind, resource_name=name, account=account)

    def _of_the_stack(
        self, bucket: s3.IBucket, identity: InstanceIdentity, switch: OutsideSwitch, notices: Notices
    ) -> Sequence[iam.PolicyStatement]:
        """To see whether the stack is as it must be, and to publish what the machine could not."""
        looks = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketPublicAccessBlock"]
        looks += ["s3:GetEncryptionConfiguration"]
        topic = ["sns:Publish", "sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic"]
        roles = [identity.role.role_arn, switch.role.role_arn]
        return [
            iam.PolicyStatement(sid="LookAtBucket", actions=looks, resources=[bucket.bucket_arn]),
            iam.PolicyStatement(sid="Notices", actions=topic, resources=[notices.topic.topic_arn]),
            iam.PolicyStatement(
                sid="LookAtRoles",
                actions=["iam:GetRole", "iam:GetRolePolicy", "iam:ListRolePolicies"],
                resources=roles,
            ),
            iam.PolicyStatement(
                sid="LookAtProfile",
                actions=["iam:GetInstanceProfile"],
                resources=[identity.instance_profile.instance_profile_arn],
            ),
            iam.PolicyStatement(
                sid="LookAtGroup", actions=["scheduler:GetScheduleGroup"], resources=[switch.group.attr_arn]
            ),
            iam.PolicyStatement(
                sid="LookAtImages",
                actions=["ssm:GetParameter"],
                resources=[self._arn("parameter/aws/service/*", service="ssm", account="")],
            ),
            iam.PolicyStatement(
                sid="LookAtQuotas",
                actions=[
                    "servicequotas:GetServiceQuota",
                    "servicequotas:ListRequestedServiceQuotaChangeHistoryByQuota",
                ],
                resources=[self._arn(f"{service}/*", service="servicequotas") for service in _LIMITING],
            ),
        ]

    def _start(
        self, network: TrainingNetwork, cluster: TrainingCluster | None
    ) -> Sequence[iam.PolicyStatement]:
        """EC2 asks about each thing that a launch makes, which has no id yet, and about each that it uses."""
        made = ["instance", "network-interface", "volume"]
        # The machine's credentials are not to be had by whoever makes it fetch a page: IMDSv2 alone.
        guarded = {"StringEquals": {**_TAGGED["StringEquals"], "ec2:MetadataHttpTokens": "required"}}
        used = [
            self._arn("image/*", account=""),
            *(self._arn(f"subnet/{subnet.subnet_id}") for subnet in network.vpc.public_subnets),
            self._arn(f"security-group/{network.security_group.security_group_id}"),
        ]
        if cluster is not None:
            used += [
                self._arn(f"security-group/{cluster.security_group.security_group_id}"),
                self._arn(f"placement-group/{cluster.placement_group.placement_group_name}"),
            ]
        create = {"StringEquals": {**_TAGGED["StringEquals"], "ec2:CreateAction": "RunInstances"}}
        return [
            iam.PolicyStatement(
                sid="Start",
                actions=["ec2:RunInstances"],
                resources=[self._arn("instance/*")],
                conditions=guarded,
            ),
            iam.PolicyStatement(
                sid="StartWith",
                actions=["ec2:RunInstances"],
                resources=[self._arn(f"{kind}/*") for kind in made[1:]],
                conditions=_TAGGED,
            ),
            iam.PolicyStatement(sid="StartFrom", actions=["ec2:RunInstances"], resources=used),
            # EC2 asks about a spot request that is to get tags, and knows no condition on them here.
            iam.PolicyStatement(
                sid="StartSpot",
                actions=["ec2:RunInstances"],
                resources=[self._arn("spot-instances-request/*")],
            ),
            iam.PolicyStatement(
                sid="TagWhatStarts",
                actions=["ec2:CreateTags"],
                resources=[self._arn(f"{kind}/*") for kind in (*made, "spot-instances-request")],
                conditions=create,
            ),
        ]

    def _pass_roles(self, identity: InstanceIdentity, switch: OutsideSwitch) -> Sequence[iam.PolicyStatement]:
        pairs = (("PassToMachine", identity.role, EC2), ("PassToSwitch", switch.role, SCHEDULER))
        return [
            iam.PolicyStatement(
                sid=sid,
                actions=["iam:PassRole"],
                resources=[role.role_arn],
                conditions={"StringEquals": {"iam:PassedToService": service}},
            )
            for sid, role, service in pairs
        ]

    def _end(self) -> iam.PolicyStatement:
        """To end machines of this project and what is left of them, and to read their last words."""
        return iam.PolicyStatement(
            sid="End",
            actions=[
                "ec2:TerminateInstances",
                "ec2:GetConsoleOutput",
                "ec2:DeleteVolume",
                "ec2:CancelSpotInstanceRequests",
            ],
            resources=[self._arn(f"{kind}/*") for kind in ("instance", "volume", "spot-instances-request")],
            conditions=_OURS,
        )

    def _schedule(self) -> iam.PolicyStatement:
        return iam.PolicyStatement(
            sid="Switches",
            actions=["scheduler:CreateSchedule", "scheduler:GetSchedule", "scheduler:DeleteSchedule"],
            resources=[self._arn(f"schedule/{SCHEDULE_GROUP_NAME}/*", service="scheduler")],
        )

    def _objects(self, bucket: s3.IBucket) -> Sequence[iam.PolicyStatement]:
        actions = ["GetObject", "PutObject", "DeleteObject", "GetObjectTagging", "PutObjectTagging"]
        actions += ["AbortMultipartUpload", "ListMultipartUploadParts"]
        return [
            iam.PolicyStatement(
                sid="Objects",
                actions=[f"s3:{action}" for action in actions],
                resources=[bucket.arn_for_objects("*")],
            )
        ]

    def _acknowledge(self, bucket: s3.IBucket) -> None:
        """Why there are wildcards: each for things that have no name until they are made, within limits."""
        policy = self.policy
        acknowledge_wildcard(policy, "*", "Reads that know no resources; IAM allows them altogether or not.")
        for kind in ("instance", "network-interface", "volume", "spot-instances-request"):
            reason = "Ids are made at launch; conditions on the project's tag leave this project's."
            acknowledge_wildcard(policy, self._arn(f"{kind}/*"), reason)
        acknowledge_wildcard(policy, self._arn("image/*", account=""), "Amazon's newest image has a new id.")
        public = self._arn("parameter/aws/service/*", service="ssm", account="")
        acknowledge_wildcard(policy, public, "AWS's own public parameters.")
        for service in _LIMITING:
            quotas = self._arn(f"{service}/*", service="servicequotas")
            acknowledge_wildcard(
                policy, quotas, "Reads the quotas of machines and of disks, each by its code."
            )
        schedules = self._arn(f"schedule/{SCHEDULE_GROUP_NAME}/*", service="scheduler")
        acknowledge_wildcard(policy, schedules, "One schedule a run, in the group of the stack.")
        acknowledge_wildcard(policy, bucket.arn_for_objects("*"), "The project's own bucket.")
