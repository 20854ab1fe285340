"""Several machines by one launch: their numbers, their place, and that they reach each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import AMI, Cloud

# Says who it is.
SCRIPT = """#!/bin/bash
imds=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token")
for name in ami-launch-index reservation-id local-ipv4 placement/group-name iam/security-credentials/; do
  said+=" $(curl -s -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$name")"
done
echo "place:$said"
"""


def template() -> str:
    """A stack with a place and a group for machines that train together, as CDK writes one."""
    rule = {"GroupId": {"Fn::GetAtt": ["Sg", "GroupId"]}, "IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535}
    own = {"Fn::GetAtt": ["Sg", "GroupId"]}
    nothing = {"CidrIp": "255.255.255.255/32", "IpProtocol": "icmp", "FromPort": 252, "ToPort": 86}
    resources: dict[str, Any] = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.77.0.0/16"}},
        "Sg": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "x",
                "VpcId": {"Ref": "Vpc"},
                "SecurityGroupEgress": [nothing],
            },
        },
        "In": {
            "Type": "AWS::EC2::SecurityGroupIngress",
            "Properties": {**rule, "SourceSecurityGroupId": own},
        },
        "Out": {
            "Type": "AWS::EC2::SecurityGroupEgress",
            "Properties": {**rule, "DestinationSecurityGroupId": own},
        },
        "Place": {
            "Type": "AWS::EC2::PlacementGroup",
            "Properties": {"GroupName": "rack", "Strategy": "cluster"},
        },
    }
    outputs = {
        name: {"Value": value, "Export": {"Name": f"nodes-{name}"}}
        for name, value in {"Place": {"Fn::GetAtt": ["Place", "GroupName"]}, "Sg": own}.items()
    }
    return json.dumps({"Resources": resources, "Outputs": outputs})


def exported(cloud: Cloud) -> dict[str, str]:
    exports = cloud.client("cloudformation").list_exports()["Exports"]
    return {item["Name"]: item["Value"] for item in exports if item["Name"].startswith("nodes-")}


@pytest.fixture
def profile(cloud: Cloud) -> None:
    """An instance profile of the name `nodes`, with a role of that name."""
    iam, trust = cloud.client("iam"), json.dumps({"Version": "2012-10-17", "Statement": []})
    iam.create_role(RoleName="nodes", AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName="nodes")
    iam.add_role_to_instance_profile(InstanceProfileName="nodes", RoleName="nodes")


def launch(cloud: Cloud, group: str) -> list[dict[str, Any]]:
    asked = {"ImageId": AMI, "InstanceType": "m5.large", "MinCount": 2, "MaxCount": 2, "UserData": SCRIPT}
    answer = cloud.ec2.run_instances(
        **asked,
        Placement={"GroupName": group},
        IamInstanceProfile={"Name": "nodes"},
        InstanceInitiatedShutdownBehavior="terminate",
    )
    found: list[dict[str, Any]] = answer["Instances"]
    return found


@pytest.mark.usefixtures("profile")
def test_machines_of_one_launch_know_their_number_their_launch_their_place_and_their_role(
    cloud: Cloud, eventually: Callable[..., bool]
) -> None:
    stacks = cloud.client("cloudformation")
    stacks.create_stack(StackName="nodes", TemplateBody=template())
    assert exported(cloud)["nodes-Place"] == "rack"
    (group,) = cloud.ec2.describe_security_groups(GroupIds=[exported(cloud)["nodes-Sg"]])["SecurityGroups"]
    for rules in ("IpPermissions", "IpPermissionsEgress"):
        pairs = [pair["GroupId"] for rule in group[rules] for pair in rule.get("UserIdGroupPairs", [])]
        assert pairs == [group["GroupId"]], rules
    machines = launch(cloud, "rack")
    ids = [machine["InstanceId"] for machine in machines]
    said = {}
    for one in ids:
        assert eventually(lambda one=one: "place: " in cloud.console(one), 60)
        line = next(line for line in cloud.console(one).splitlines() if line.startswith("place: "))
        said[one] = line.split()[1:]
    assert [said[one][0] for one in ids] == ["0", "1"]
    assert len({said[one][1] for one in ids}) == 1 and said[ids[0]][1].startswith("r-")
    addresses = [said[one][2] for one in ids]
    assert addresses == [cloud.instance(one)["PrivateIpAddress"] for one in ids]
    assert len(set(addresses)) == 2 and all(address.startswith("127.") for address in addresses)
    assert [said[one][4] for one in ids[1:]] == ["nodes"]
    assert {said[one][3] for one in ids} == {cloud.instance(ids[0])["Placement"]["GroupName"]} == {"rack"}
    cloud.ec2.terminate_instances(InstanceIds=ids)
    assert all(cloud.ends_as(one, "terminated", 30) for one in ids)
    stacks.delete_stack(StackName="nodes")
    with pytest.raises(ClientError, match=r"InvalidPlacementGroup.Unknown"):
        launch(cloud, "rack")
