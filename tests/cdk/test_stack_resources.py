"""What the stack makes, asked of the template that CloudFormation gets."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cdk.assertions import Match, Template

from chronos_ec2.local_cloud.access.policy import Question, allowed

from .templates import exports, of_type, only
from .test_iam_accepts import MADE, resolved


@pytest.fixture(scope="session")
def assertions(default_template: dict[str, Any]) -> Template:
    return Template.from_json(default_template)


def test_the_endpoint_is_the_free_kind_for_s3_and_serves_every_subnet(
    custom_template: dict[str, Any],
) -> None:
    endpoint = only(custom_template, "AWS::EC2::VPCEndpoint")["Properties"]
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert endpoint["ServiceName"] == {"Fn::Join": ["", ["com.amazonaws.", {"Ref": "AWS::Region"}, ".s3"]]}
    associated = [
        association["Properties"]["RouteTableId"]
        for association in of_type(custom_template, "AWS::EC2::SubnetRouteTableAssociation")
    ]
    assert len(associated) == 3
    assert sorted(map(str, endpoint["RouteTableIds"])) == sorted(map(str, associated))


def test_one_zone_by_default_with_a_public_subnet_only(assertions: Template) -> None:
    assertions.resource_count_is("AWS::EC2::VPC", 1)
    assertions.resource_count_is("AWS::EC2::Subnet", 1)
    assertions.resource_count_is("AWS::EC2::NatGateway", 0)
    assertions.has_resource_properties("AWS::EC2::Subnet", {"MapPublicIpOnLaunch": True})
    assertions.has_resource_properties(
        "AWS::EC2::Route", {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": Match.any_value()}
    )


def test_more_zones_give_a_public_subnet_each_in_a_zone_of_its_own(custom_template: dict[str, Any]) -> None:
    subnets = [subnet["Properties"] for subnet in of_type(custom_template, "AWS::EC2::Subnet")]
    assert [s["AvailabilityZone"] for s in subnets] == [
        {"Fn::Select": [index, {"Fn::GetAZs": ""}]} for index in range(3)
    ]
    assert all(subnet["MapPublicIpOnLaunch"] for subnet in subnets)
    assert len({subnet["CidrBlock"] for subnet in subnets}) == 3


def test_the_security_group_lets_https_out_and_nothing_in(default_template: dict[str, Any]) -> None:
    group = only(default_template, "AWS::EC2::SecurityGroup")["Properties"]
    assert group["GroupName"] == "ChronosTrainingSG"
    assert "SecurityGroupIngress" not in group
    (rule,) = group["SecurityGroupEgress"]
    del rule["Description"]
    assert rule == {"CidrIp": "0.0.0.0/0", "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    assert of_type(default_template, "AWS::EC2::SecurityGroupIngress") == []
    assert of_type(default_template, "AWS::EC2::SecurityGroupEgress") == []


def test_the_bucket_is_private_encrypted_and_owned_by_the_account(assertions: Template) -> None:
    assertions.resource_count_is("AWS::S3::Bucket", 1)
    assertions.has_resource_properties(
        "AWS::S3::Bucket",
        {
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "BucketName": Match.absent(),
        },
    )


def test_the_bucket_refuses_plain_http_from_everyone(default_template: dict[str, Any]) -> None:
    policy = only(default_template, "AWS::S3::BucketPolicy")["Properties"]["PolicyDocument"]
    statement, _ = policy["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Action"] == "s3:*"
    assert statement["Principal"] == {"AWS": "*"}
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(statement["Resource"]) == 2, "the bucket and its objects"


OURS, THEIRS = "123456789012", "210987654321"


@pytest.mark.parametrize(
    ("who", "refused"),
    [
        ({"aws:principalaccount": OURS, "aws:principalisawsservice": "false"}, False),
        ({"aws:principalaccount": THEIRS, "aws:principalisawsservice": "false"}, True),
        ({"aws:principalisawsservice": "false"}, True),  # nobody known
        ({}, True),
        ({"aws:principalisawsservice": "true"}, False),  # a service: whom nothing here lets in
        ({"aws:principalaccount": OURS, "aws:securetransport": "false"}, True),
    ],
)
def test_the_bucket_refuses_everybody_of_another_account(
    default_template: dict[str, Any], who: dict[str, str], refused: bool
) -> None:
    """As IAM judges it, with a policy beside it that lets everybody in."""
    own = resolved(
        default_template, only(default_template, "AWS::S3::BucketPolicy")["Properties"]["PolicyDocument"]
    )
    open_door = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    context = {"aws:securetransport": ("true",), **{key: (value,) for key, value in who.items()}}
    policies = [own, {"Statement": [open_door]}]
    bucket = MADE["AWS::S3::Bucket"]
    for action, place in (("s3:GetObject", f"{bucket}/dev/r/models/model.pkl"), ("s3:ListBucket", bucket)):
        assert allowed(policies, Question(action, place, context)) is not refused
    assert not allowed([own], Question("s3:GetObject", f"{bucket}/x", context)), "it lets nobody in itself"


def test_destroy_and_replacement_keep_the_bucket_and_the_output_says_so(
    default_template: dict[str, Any],
) -> None:
    bucket = only(default_template, "AWS::S3::Bucket")
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert "aws s3 rb --force" in str(default_template["Outputs"]["KeptByDestroy"]["Value"])


def lifecycle_rules(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rules = only(template, "AWS::S3::Bucket")["Properties"]["LifecycleConfiguration"]["Rules"]
    return {rule.pop("Id"): rule for rule in (dict(rule) for rule in rules)}


def test_lifecycle_rules_clean_up_with_the_default_ages(default_template: dict[str, Any]) -> None:
    log = {"Key": "chronos-class", "Value": "log"}
    model = {"Key": "chronos-class", "Value": "model"}
    archive = {"StorageClass": "GLACIER_IR", "TransitionInDays": 90}
    state = "system-state.json.tmp-"
    assert lifecycle_rules(default_template) == {
        "abort-unfinished-uploads": {
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
            "Status": "Enabled",
        },
        "drop-staged-state-dev": {"Prefix": f"dev/{state}", "ExpirationInDays": 1, "Status": "Enabled"},
        "drop-staged-state-prod": {"Prefix": f"prod/{state}", "ExpirationInDays": 1, "Status": "Enabled"},
        "expire-run-logs": {"TagFilters": [log], "ExpirationInDays": 14, "Status": "Enabled"},
        "expire-shared-logs": {"Prefix": "logs/", "ExpirationInDays": 14, "Status": "Enabled"},
        "archive-models": {"TagFilters": [model], "Transitions": [archive], "Status": "Enabled"},
    }


def test_lifecycle_ages_come_from_the_settings(custom_template: dict[str, Any]) -> None:
    rules = lifecycle_rules(custom_template)
    assert rules["expire-run-logs"]["ExpirationInDays"] == 7
    assert rules["expire-shared-logs"]["ExpirationInDays"] == 7
    assert rules["archive-models"]["Transitions"][0]["TransitionInDays"] == 30
    assert {"drop-staged-state-local", "drop-staged-state-team-a"} <= rules.keys()


def test_no_lifecycle_rule_deletes_anything_but_logs_and_staged_state(
    custom_template: dict[str, Any],
) -> None:
    expiring = {name for name, rule in lifecycle_rules(custom_template).items() if "ExpirationInDays" in rule}
    assert expiring == {
        "drop-staged-state-local",
        "drop-staged-state-team-a",
        "expire-run-logs",
        "expire-shared-logs",
    }


def test_exports_are_what_a_launch_reads(custom_template: dict[str, Any]) -> None:
    exported, resources = exports(custom_template), custom_template["Resources"]
    kinds = {
        "BucketName": "AWS::S3::Bucket",
        "VpcId": "AWS::EC2::VPC",
        "InstanceProfileName": "AWS::IAM::InstanceProfile",
        "ScheduleGroupName": "AWS::Scheduler::ScheduleGroup",
        "TopicArn": "AWS::SNS::Topic",
        "LauncherPolicyArn": "AWS::IAM::ManagedPolicy",
    }
    cluster = {"ClusterSecurityGroupId", "PlacementGroupName"}
    assert exported.keys() == {*kinds, *cluster, "SubnetIds", "SecurityGroupId", "SchedulerRoleArn"}
    for name, kind in kinds.items():
        assert resources[exported[name]["Ref"]]["Type"] == kind, name
    role, attribute = exported["SchedulerRoleArn"]["Fn::GetAtt"]
    assert (resources[role]["Type"], attribute) == ("AWS::IAM::Role", "Arn")
    assert role.startswith("OutsideSwitch")


def test_the_subnets_are_exported_in_the_order_of_the_zones(custom_template: dict[str, Any]) -> None:
    resources = custom_template["Resources"]
    separator, parts = exports(custom_template)["SubnetIds"]["Fn::Join"]
    assert "".join([separator, *(part for part in parts if isinstance(part, str))]) == ",,"
    zones = [resources[part["Ref"]]["Properties"]["AvailabilityZone"] for part in parts if part != ","]
    assert zones == [{"Fn::Select": [index, {"Fn::GetAZs": ""}]} for index in range(3)]


def test_the_template_needs_no_bootstrap_stack_and_holds_no_metadata(
    default_template: dict[str, Any],
) -> None:
    assert default_template.keys() == {"Description", "Resources", "Outputs"}
    assert not any("Metadata" in resource for resource in default_template["Resources"].values())


def test_everything_that_takes_tags_carries_the_project_tag(default_template: dict[str, Any]) -> None:
    for name, resource in default_template["Resources"].items():
        tags = resource["Properties"].get("Tags")
        assert tags is None or {"Key": "Project", "Value": "Chronos-Training"} in tags, name
