"""The bucket: everything a run reads and everything that remains of it."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from chronos_cdk.nag import acknowledge

CLASS_TAG = "chronos-class"
LOG_CLASS = "log"
MODEL_CLASS = "model"


class TrainingBucket(Construct):
    """A private bucket that outlives the stack, and cleans up after itself.

    S3 lifecycle rules choose objects by prefix, tag and size, never by wildcard, so no rule can name
    `{env}/*/logs/`. Whoever uploads therefore says what an object is, by one object tag:

        {env}/{run_id}/logs/**     chronos-class=log      deleted after `log_retention_days`
        {env}/{run_id}/models/**   chronos-class=model    moved to Glacier after `glacier_after_days`

    An object without the tag is kept as it is. The shared prefix `logs/` needs no tag. A state write stages
    its body at `{env}/system-state.json.tmp-{writer}`; what a crashed writer leaves there goes after a day,
    by that prefix, one rule an environment.

    The Glacier class is Instant Retrieval: storage at about a sixth of the price, and the results of an old
    run can still be fetched at once, without a restore job. S3 leaves objects under 128 KB where they are.

    Attributes:
        bucket: The bucket. Its name is made by CloudFormation: a fixed one would be taken, by the retained
            bucket, when the stack is destroyed and deployed again.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environments: Sequence[str],
        log_retention_days: int,
        glacier_after_days: int,
    ) -> None:
        super().__init__(scope, construct_id)
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            removal_policy=RemovalPolicy.RETAIN,
            lifecycle_rules=[
                *_upkeep(environments),
                *_log_expiry(Duration.days(log_retention_days)),
                _model_archive(Duration.days(glacier_after_days)),
            ],
        )
        self.bucket.add_to_resource_policy(_own_account_only(self.bucket))
        acknowledge(
            self.bucket,
            "S1",
            "Access logs need a second bucket and are billed as what they store; a run's state writes would "
            "fill it. Who asked for a run stands in its record.",
        )


def _own_account_only(bucket: s3.Bucket) -> iam.PolicyStatement:
    """Nobody of another account, and nobody unknown, whatever else may come to allow it.

    A service of AWS has no account in its requests. None is let in here, and one that somebody lets in should
    say for whom it acts, by aws:SourceAccount.
    """
    return iam.PolicyStatement(
        sid="OwnAccountOnly",
        effect=iam.Effect.DENY,
        principals=[iam.AnyPrincipal()],
        actions=["s3:*"],
        resources=[bucket.bucket_arn, bucket.arn_for_objects("*")],
        conditions={
            "StringNotEquals": {"aws:PrincipalAccount": Stack.of(bucket).account},
            "BoolIfExists": {"aws:PrincipalIsAWSService": "false"},
        },
    )


def _upkeep(environments: Sequence[str]) -> list[s3.LifecycleRule]:
    abandoned = s3.LifecycleRule(
        id="abort-unfinished-uploads", abort_incomplete_multipart_upload_after=Duration.days(7)
    )
    staged = [
        s3.LifecycleRule(
            id=f"drop-staged-state-{environment}",
            prefix=f"{environment}/system-state.json.tmp-",
            expiration=Duration.days(1),
        )
        for environment in environments
    ]
    return [abandoned, *staged]


def _log_expiry(age: Duration) -> list[s3.LifecycleRule]:
    return [
        s3.LifecycleRule(id="expire-run-logs", tag_filters={CLASS_TAG: LOG_CLASS}, expiration=age),
        s3.LifecycleRule(id="expire-shared-logs", prefix="logs/", expiration=age),
    ]


def _model_archive(age: Duration) -> s3.LifecycleRule:
    return s3.LifecycleRule(
        id="archive-models",
        tag_filters={CLASS_TAG: MODEL_CLASS},
        transitions=[
            s3.Transition(storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL, transition_after=age)
        ],
    )
