"""The way from an instance to AWS: subnets, routes, the S3 endpoint, the security group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chronos_ec2.workstation.doctor.answers import ApiError
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.stack import anew_command

_ANYWHERE = "0.0.0.0/0"


def subnets(facts: Facts) -> list[Mapping[str, Any]]:
    """The stack's subnets, in the order in which a launch tries them."""

    def look() -> list[Mapping[str, Any]]:
        ids = facts.export("SubnetIds").split(",")
        found = facts.ask("ec2", "describe_subnets", SubnetIds=ids)["Subnets"]
        return sorted(found, key=lambda subnet: ids.index(subnet["SubnetId"]))

    return facts.shared("subnets", "subnets", look)


def subnets_check(facts: Facts) -> list[Finding]:
    """Whether each subnet has a way to the internet, and free addresses."""
    try:
        found = subnets(facts)
    except Exception as problem:
        if _code_of(problem) != "InvalidSubnetID.NotFound":
            raise
        return [error("a subnet of the stack does not exist", anew_command(facts))]
    for subnet in found:
        table, name = _table_of(facts, subnet["SubnetId"]), subnet["SubnetId"]
        if not _leads_out(table):
            text = f"{name} has no route to an internet gateway, so AWS's APIs cannot be reached"
            return [error(text, _route_command(facts, table["RouteTableId"]))]
        if subnet["AvailableIpAddressCount"] < 1:
            return [
                error(
                    f"{name} has no free address",
                    "aws ec2 describe-network-interfaces (to see what uses them)",
                )
            ]
    return [ok(", ".join(f"{one['SubnetId']} ({one['AvailabilityZone']})" for one in found))]


def _route_command(facts: Facts, table_id: str) -> str:
    wanted = [{"Name": "attachment.vpc-id", "Values": [facts.export("VpcId")]}]
    gateways = facts.pages("ec2", "describe_internet_gateways", "InternetGateways", Filters=wanted)
    if not gateways or not table_id:
        return anew_command(facts)
    return (
        f"aws ec2 create-route --route-table-id {table_id} --destination-cidr-block {_ANYWHERE} "
        f"--gateway-id {gateways[0]['InternetGatewayId']}"
    )


def s3_endpoint(facts: Facts) -> list[Finding]:
    """Whether traffic to S3 takes the gateway endpoint of every subnet."""
    region, vpc = facts.settings.region, facts.export("VpcId")
    service = f"com.amazonaws.{region}.s3"
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "service-name", "Values": [service]}]
    endpoints = [
        one
        for one in facts.pages("ec2", "describe_vpc_endpoints", "VpcEndpoints", Filters=wanted)
        if one["VpcEndpointType"] == "Gateway" and one["ServiceName"] == service
    ]
    tables = [str(_table_of(facts, one["SubnetId"])["RouteTableId"]) for one in subnets(facts)]
    if not endpoints:
        return [
            warning(
                "no gateway endpoint for S3: its traffic goes over the internet gateway",
                f"aws ec2 create-vpc-endpoint --vpc-id {vpc} --service-name {service} "
                f"--route-table-ids {' '.join(dict.fromkeys(tables))}",
            )
        ]
    endpoint = endpoints[0]
    if str(endpoint["State"]).lower() != "available":
        return [error(f"{endpoint['VpcEndpointId']} is {endpoint['State']}", anew_command(facts))]
    if lost := [table for table in dict.fromkeys(tables) if table not in endpoint["RouteTableIds"]]:
        return [
            warning(
                f"{', '.join(lost)} has no route to {endpoint['VpcEndpointId']}: S3's traffic goes around it",
                f"aws ec2 modify-vpc-endpoint --vpc-endpoint-id {endpoint['VpcEndpointId']} "
                f"--add-route-table-ids {' '.join(lost)}",
            )
        ]
    return [ok(f"{endpoint['VpcEndpointId']}, on the route table of every subnet")]


def security_group(facts: Facts) -> list[Finding]:
    """Whether HTTPS may go out, and nothing may come in."""
    name = facts.export("SecurityGroupId")
    try:
        group = facts.ask("ec2", "describe_security_groups", GroupIds=[name])["SecurityGroups"][0]
    except ApiError as refusal:
        if refusal.code != "InvalidGroup.NotFound":
            raise
        return [error(f"security group {name} does not exist", anew_command(facts))]
    if not any(_lets_https_out(rule) for rule in group["IpPermissionsEgress"]):
        return [
            error(
                f"{name} lets no HTTPS out, so an instance could reach neither S3 nor AWS's APIs",
                f"aws ec2 authorize-security-group-egress --group-id {name} --protocol tcp --port 443 "
                f"--cidr {_ANYWHERE}",
            )
        ]
    if group["IpPermissions"]:
        return [
            warning(
                f"{name} lets {len(group['IpPermissions'])} kinds of traffic in; the stack lets in none",
                f"aws ec2 describe-security-groups --group-ids {name} (then revoke-security-group-ingress)",
            )
        ]
    return [ok(f"{name}: HTTPS out, nothing in")]


def _lets_https_out(rule: Mapping[str, Any]) -> bool:
    anywhere = any(cidr["CidrIp"] == _ANYWHERE for cidr in rule.get("IpRanges", []))
    everything = rule["IpProtocol"] == "-1"
    https = rule["IpProtocol"] in ("tcp", "6") and rule.get("FromPort", 0) <= 443 <= rule.get("ToPort", 65535)
    return anywhere and (everything or https)


def _leads_out(table: Mapping[str, Any]) -> bool:
    return any(
        route.get("DestinationCidrBlock") == _ANYWHERE
        and str(route.get("GatewayId", "")).startswith("igw-")
        and route.get("State", "active") == "active"
        for route in table["Routes"]
    )


def _table_of(facts: Facts, subnet_id: str) -> Mapping[str, Any]:
    """A subnet's own route table, or the VPC's main one."""
    tables = facts.shared("subnets", "route tables", lambda: _tables(facts))
    main: Mapping[str, Any] = {"RouteTableId": "", "Routes": []}
    for table in tables:
        for association in table["Associations"]:
            if association.get("SubnetId") == subnet_id:
                return table
            if association.get("Main"):
                main = table
    return main


def _tables(facts: Facts) -> list[Mapping[str, Any]]:
    wanted = [{"Name": "vpc-id", "Values": [facts.export("VpcId")]}]
    return facts.pages("ec2", "describe_route_tables", "RouteTables", Filters=wanted)


def _code_of(problem: Exception) -> str:
    cause = getattr(problem, "cause", problem)
    return cause.code if isinstance(cause, ApiError) else ""
