"""The account's quotas, and what a stack sets on its network and bucket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

GROUP_RULES = [
    {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIp": "0.0.0.0/0", "Description": "HTTPS"},
    {"IpProtocol": "udp", "FromPort": 123, "ToPort": 123, "CidrIp": "10.0.0.0/8"},
]
BLOCK = dict.fromkeys(
    ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True
)
RESOURCES = {
    "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.40.0.0/16"}},
    "Subnet": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": "10.40.0.0/20"},
    },
    "Table": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}},
    "OnTable": {
        "Type": "AWS::EC2::SubnetRouteTableAssociation",
        "Properties": {"SubnetId": {"Ref": "Subnet"}, "RouteTableId": {"Ref": "Table"}},
    },
    "Group": {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "VpcId": {"Ref": "Vpc"},
            "GroupDescription": "x",
            "SecurityGroupEgress": GROUP_RULES,
        },
    },
    "Open": {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "GroupDescription": "without rules of its own"},
    },
    "Role": {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []},
            "Policies": [
                {
                    "PolicyName": "one",
                    "PolicyDocument": {
                        "Version": "2012-10-17",
                        "Statement": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}],
                    },
                }
            ],
        },
    },
    "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"PublicAccessBlockConfiguration": BLOCK}},
}


@pytest.fixture(scope="module")
def quotas(cloud: Any) -> Any:
    return cloud.client("service-quotas")


def test_an_ec2_quota_is_answered_in_the_shape_of_the_real_service(quotas: Any) -> None:
    quota = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")["Quota"]
    assert quota["QuotaName"] == "Running On-Demand G and VT instances"
    assert quota["Value"] == 64.0
    assert quota["QuotaArn"] == "arn:aws:servicequotas:us-east-1:123456789012:ec2/L-DB2E81BA"
    assert quota["Adjustable"] is True
    assert quotas.get_service_quota(ServiceCode="vpc", QuotaCode="L-7E9ECCDB")["Quota"]["Value"] == 50.0
    with pytest.raises(ClientError, match="NoSuchResourceException"):
        quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-00000000")


def test_a_quota_that_was_never_given_to_the_account_has_a_default_only(quotas: Any) -> None:
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-C4BD4855"}
    with pytest.raises(ClientError, match="NoSuchResourceException"):
        quotas.get_service_quota(**asked)
    quota = quotas.get_aws_default_service_quota(**asked)["Quota"]
    assert (quota["QuotaName"], quota["Value"]) == ("All P5 Spot Instance Requests", 0.0)
    standard = quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")["Quota"]
    assert standard["Value"] == 5.0, "whatever the account has been given"
    with pytest.raises(ClientError, match="NoSuchResourceException"):
        quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode="L-00000000")


def test_a_request_for_more_stays_open_and_there_is_only_one(quotas: Any) -> None:
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-C4BD4855", "DesiredValue": 192.0}
    history = {"ServiceCode": "ec2", "QuotaCode": "L-C4BD4855"}
    listed = quotas.list_requested_service_quota_change_history_by_quota
    assert listed(**history)["RequestedQuotas"] == []
    made = quotas.request_service_quota_increase(**asked)["RequestedQuota"]
    assert (made["Status"], made["DesiredValue"]) == ("PENDING", 192.0)
    assert [item["Id"] for item in listed(**history)["RequestedQuotas"]] == [made["Id"]]
    assert listed(**history, Status="APPROVED")["RequestedQuotas"] == []
    with pytest.raises(ClientError, match="ResourceAlreadyExistsException"):
        quotas.request_service_quota_increase(**asked)


def test_a_stack_applies_egress_rules_route_tables_public_access_block_and_policies(cloud: Any) -> None:
    cloudformation = cloud.client("cloudformation")
    iam = cloud.client("iam")
    cloudformation.create_stack(StackName="Props", TemplateBody=json.dumps({"Resources": RESOURCES}))
    listed = cloudformation.list_stack_resources(StackName="Props")["StackResourceSummaries"]
    ids = {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in listed}

    def egress(name: str) -> list[tuple[Any, Any, str]]:
        group = cloud.ec2.describe_security_groups(GroupIds=[ids[name]])["SecurityGroups"][0]
        return [
            (rule["IpProtocol"], rule.get("FromPort"), cidr["CidrIp"])
            for rule in group["IpPermissionsEgress"]
            for cidr in rule["IpRanges"]
        ]

    assert egress("Group") == [("tcp", 443, "0.0.0.0/0"), ("udp", 123, "10.0.0.0/8")]
    assert egress("Open") == [("-1", None, "0.0.0.0/0")]
    on_subnet = [{"Name": "association.subnet-id", "Values": [ids["Subnet"]]}]
    tables = cloud.ec2.describe_route_tables(Filters=on_subnet)["RouteTables"]
    assert [table["RouteTableId"] for table in tables] == [ids["Table"]]
    found = cloud.s3.get_public_access_block(Bucket=ids["Bucket"])
    assert found["PublicAccessBlockConfiguration"] == BLOCK

    def allowed() -> str:
        policy = iam.get_role_policy(RoleName=ids["Role"], PolicyName="one")["PolicyDocument"]
        return str(policy["Statement"][0]["Action"])

    assert allowed() == "s3:ListBucket"
    text = json.dumps({"Resources": RESOURCES}).replace("s3:ListBucket", "s3:GetObject")
    cloudformation.update_stack(StackName="Props", TemplateBody=text)
    assert allowed() == "s3:GetObject"

    cloudformation.delete_stack(StackName="Props")
    assert cloud.ec2.describe_route_tables(Filters=on_subnet)["RouteTables"] == []
