"""Who an instance is: a role that reads shared inputs, writes results, sends notices and can end it."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct, IConstruct

from chronos_cdk.nag import acknowledge_wildcard
from chronos_cdk.notices import Notices

INSTANCE_PROFILE_NAME = "ChronosTrainingInstanceProfile"
PROJECT_TAG_VALUE = "Chronos-Training"


class InstanceIdentity(Construct):
    """The role of a training instance and the profile that carries it.

    No statement allows tagging EC2 resources: an instance that could put the project's tag on another machine
    could then terminate it.

    Attributes:
        instance_profile: The profile, under a name that launches can rely on.
        role: The role in it.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: s3.IBucket,
        environments: Sequence[str],
        notices: Notices,
    ) -> None:
        super().__init__(scope, construct_id)
        writable = [bucket.arn_for_objects(f"{prefix}/*") for prefix in (*environments, "logs")]
        shared = bucket.arn_for_objects("cached-datasets/*")
        policy = iam.PolicyDocument(
            statements=[
                *_s3_statements(bucket, shared, writable),
                project_instances(self, sid="EC2SelfManagement"),
                # DescribeInstances knows no resources: a tag condition here would deny it altogether.
                iam.PolicyStatement(sid="EC2Describe", actions=["ec2:DescribeInstances"], resources=["*"]),
                notices.publish_statement(),
            ]
        )
        self.role = iam.Role(
            self,
            "Role",
            description="Chronos training instances",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            inline_policies={"ChronosTraining": policy},
        )
        self.instance_profile = iam.InstanceProfile(
            self, "InstanceProfile", instance_profile_name=INSTANCE_PROFILE_NAME, role=self.role
        )
        acknowledge_wildcard(self.role, shared, "Read only: the inputs that all environments share.")
        for prefix in writable:
            acknowledge_wildcard(
                self.role, prefix, "A run's own files, whose names hold its id and its data's."
            )
        acknowledge_project_instances(self.role)
        acknowledge_wildcard(self.role, "*", "ec2:DescribeInstances alone, which knows no resources.")


def _s3_statements(bucket: s3.IBucket, shared: str, writable: list[str]) -> list[iam.PolicyStatement]:
    return [
        # Without a condition on the prefix: S3 answers "not found" for a missing key only to those who may
        # list, and "access denied" to all others, and the state protocol has to tell the two apart.
        iam.PolicyStatement(sid="S3ListBucket", actions=["s3:ListBucket"], resources=[bucket.bucket_arn]),
        iam.PolicyStatement(
            sid="S3ReadAccess",
            actions=["s3:GetObject"],
            resources=[shared],
        ),
        # The tagging actions: uploads say what they are by a tag (see storage.py), and a copy carries tags.
        iam.PolicyStatement(
            sid="S3WriteAccess",
            actions=[
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:GetObjectTagging",
                "s3:PutObjectTagging",
                "s3:AbortMultipartUpload",
            ],
            resources=writable,
        ),
    ]


def project_instances(scope: Construct, *, sid: str = "EC2ProjectInstances") -> iam.PolicyStatement:
    """Leave to terminate instances that carry the project's tag, and no others."""
    return iam.PolicyStatement(
        sid=sid,
        actions=["ec2:TerminateInstances"],
        resources=[_all_instances(scope)],
        conditions={"StringEquals": {"ec2:ResourceTag/Project": PROJECT_TAG_VALUE}},
    )


def acknowledge_project_instances(role: iam.IRole) -> None:
    """Say why a role with `project_instances` names every instance."""
    reason = "Ids are made at launch; the condition on the project's tag leaves this project's instances."
    acknowledge_wildcard(role, _all_instances(role), reason)


def _all_instances(scope: IConstruct) -> str:
    return Stack.of(scope).format_arn(service="ec2", resource="instance", resource_name="*")
