"""What machines need that train together. Made only where a run may have more than one; free all the same."""

from __future__ import annotations

from aws_cdk import Tags
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

CLUSTER_GROUP_NAME = "ChronosTrainingClusterSG"


class TrainingCluster(Construct):
    """A place where machines are near each other, and a security group in which they may talk.

    A launch of several machines puts them in the placement group and gives them this security group beside
    the network's own. A machine that trains alone has neither, so nothing can reach it as before.

    Attributes:
        placement_group: The cluster placement group: one zone, one rack's network. CloudFormation names it.
        security_group: TCP among its own members, whose ports torch chooses; nothing else in or out.
    """

    def __init__(self, scope: Construct, construct_id: str, *, vpc: ec2.IVpc) -> None:
        super().__init__(scope, construct_id)
        self.placement_group = ec2.PlacementGroup(
            self,
            "PlacementGroup",
            strategy=ec2.PlacementGroupStrategy.CLUSTER,
        )
        self.security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=vpc,
            security_group_name=CLUSTER_GROUP_NAME,
            description="Chronos training instances of one run: TCP among themselves",
            allow_all_outbound=False,
        )
        own, words = self.security_group, "Machines that train together"
        own.add_ingress_rule(own, ec2.Port.all_tcp(), words)
        # Not add_egress_rule: that takes the rule away by which CDK says that there is no other way out.
        ec2.CfnSecurityGroupEgress(
            self,
            "Egress",
            group_id=own.security_group_id,
            destination_security_group_id=own.security_group_id,
            ip_protocol="tcp",
            from_port=0,
            to_port=65535,
            description=words,
        )
        Tags.of(own).add("Name", CLUSTER_GROUP_NAME)
