"""The network: public subnets, a way to S3 that costs nothing, and a security group that lets nothing in."""

from __future__ import annotations

from aws_cdk import Fn, Tags
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from chronos_cdk.nag import acknowledge

SECURITY_GROUP_NAME = "ChronosTrainingSG"


class TrainingNetwork(Construct):
    """A VPC that is free while nothing runs in it.

    There is no NAT gateway (billed by the hour): instances get a public address for as long as they run, and
    traffic to S3 takes the gateway endpoint. More AZs mean more subnets, which are free too, and give a
    launch more pools of capacity to try.

    Attributes:
        vpc: The VPC, with one public subnet an AZ.
        security_group: HTTPS out to anywhere, nothing in. DNS, the metadata service and the time service
            are the VPC's own and pass without a rule.
    """

    def __init__(self, scope: Construct, construct_id: str, *, availability_zones: int) -> None:
        super().__init__(scope, construct_id)
        self.vpc = self._vpc(availability_zones)
        self.security_group = self._security_group()

    def _vpc(self, availability_zones: int) -> ec2.Vpc:
        # The zones are picked when CloudFormation runs: no lookup at synthesis, one template for all regions.
        zones = [Fn.select(index, Fn.get_azs()) for index in range(availability_zones)]
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr("10.20.0.0/16"),
            availability_zones=zones,
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="Public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=20)
            ],
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)
            },
            # Emptying the VPC's default group takes a Lambda function; nothing here uses that group.
            restrict_default_security_group=False,
        )
        acknowledge(
            vpc,
            "VPC7",
            "Flow logs are billed by the gigabyte. Nothing may connect to a machine here, and all that it "
            "sends is HTTPS.",
        )
        return vpc

    def _security_group(self) -> ec2.SecurityGroup:
        group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=self.vpc,
            security_group_name=SECURITY_GROUP_NAME,
            description="Chronos training instances: HTTPS out, nothing in",
            allow_all_outbound=False,
        )
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "HTTPS to AWS APIs and package indexes")
        Tags.of(group).add("Name", SECURITY_GROUP_NAME)
        return group
