"""What a stack has for machines that train together, and that it has it for nobody else."""

from __future__ import annotations

from typing import Any

from .templates import Template, exports, flat, listed, named, of_type, only


def test_a_stack_for_single_machines_has_neither_place_nor_group(default_template: Template) -> None:
    for kind in ("PlacementGroup", "SecurityGroupIngress", "SecurityGroupEgress"):
        assert of_type(default_template, f"AWS::EC2::{kind}") == []
    assert len(of_type(default_template, "AWS::EC2::SecurityGroup")) == 1
    assert not {"ClusterSecurityGroupId", "PlacementGroupName"} & exports(default_template).keys()
    assert "placement-group" not in str(default_template)


def test_the_place_is_one_rack(custom_template: Template) -> None:
    group = only(custom_template, "AWS::EC2::PlacementGroup")["Properties"]
    assert group["Strategy"] == "cluster"
    assert exports(custom_template)["PlacementGroupName"]["Fn::GetAtt"][1] == "GroupName"


def test_machines_may_talk_to_each_other_by_tcp_and_to_nobody_else(custom_template: Template) -> None:
    group = named(custom_template, "Cluster", "AWS::EC2::SecurityGroup")["Properties"]
    assert "SecurityGroupIngress" not in group
    # CDK's own way to say that there is no way out: without a rule CloudFormation would allow all.
    (nothing,) = group["SecurityGroupEgress"]
    assert (nothing["CidrIp"], nothing["IpProtocol"]) == ("255.255.255.255/32", "icmp")
    for kind, peer in (("Ingress", "Source"), ("Egress", "Destination")):
        rule: dict[str, Any] = only(custom_template, f"AWS::EC2::SecurityGroup{kind}")["Properties"]
        assert rule["GroupId"] == rule[f"{peer}SecurityGroupId"]
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 0, 65535)


def test_the_group_of_every_machine_still_lets_nothing_in(custom_template: Template) -> None:
    group = named(custom_template, "Network", "AWS::EC2::SecurityGroup")["Properties"]
    assert "SecurityGroupIngress" not in group
    (rule,) = group["SecurityGroupEgress"]
    assert (rule["FromPort"], rule["ToPort"]) == (443, 443)


def test_who_launches_may_use_this_place_and_this_group_alone(custom_template: Template) -> None:
    document = only(custom_template, "AWS::IAM::ManagedPolicy")["Properties"]["PolicyDocument"]
    (used,) = (one for one in document["Statement"] if one["Sid"] == "StartFrom")
    names = [flat(one).rpartition(":")[2] for one in listed(used["Resource"])]
    assert [name.partition("/")[0] for name in names if not name.startswith(("image", "subnet"))] == [
        *("security-group", "security-group", "placement-group")
    ]
    assert [name for name in names if name.endswith("*")] == ["image/*"]
