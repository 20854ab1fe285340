"""What a CloudFormation stack sets on its network, its bucket and its roles.

Real CloudFormation applies every property of a template: a group with SecurityGroupEgress has those rules
in place of EC2's allow-all, a SubnetRouteTableAssociation puts the subnet on its table, and a bucket has its
PublicAccessBlockConfiguration. moto drops all three, so that a look at the deployed stack would find a
machine that may talk to anybody, a subnet without a way out and a bucket that may be made public. A role's
policies it keeps as Python wrote them, which is no JSON, and as the first deployment had them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.security_groups import SecurityGroup
from moto.ec2.models.subnets import SubnetRouteTableAssociation
from moto.iam.models import Role
from moto.s3.models import FakeBucket, s3_backends
from moto.utilities.utils import get_partition

from chronos_ec2.local_cloud.gaps import around

Create = Callable[..., Any]


def install() -> None:
    """Make moto's stacks apply these properties."""
    for owner, apply in (
        (SecurityGroup, _apply_egress),
        (SubnetRouteTableAssociation, _associate),
        (FakeBucket, _block_public_access),
        (Role, _put_policies),
    ):
        around(owner, "create_from_cloudformation_json", _then(apply))
    around(Role, "update_from_cloudformation_json", _with_policies)


def _then(apply: Callable[[Any, dict[str, Any], str, str], None]) -> Callable[[Create], Any]:
    def wrap(create: Create) -> Any:
        def create_and_apply(
            _owner: type[Any],
            /,
            resource_name: str,
            cloudformation_json: Any,
            account_id: str,
            region_name: str,
            **more: Any,
        ) -> Any:
            made = create(resource_name, cloudformation_json, account_id, region_name, **more)
            apply(made, cloudformation_json.get("Properties", {}), account_id, region_name)
            return made

        return classmethod(create_and_apply)

    return wrap


def _apply_egress(group: Any, properties: dict[str, Any], account_id: str, region_name: str) -> None:
    rules = properties.get("SecurityGroupEgress")
    if not rules:
        return
    ec2 = ec2_backends[account_id][region_name]
    group.egress_rules.clear()
    for rule in rules:
        cidr = {name: rule[name] for name in ("CidrIp", "CidrIpv6", "Description") if name in rule}
        ec2.authorize_security_group_egress(
            group.id, str(rule["IpProtocol"]), rule.get("FromPort"), rule.get("ToPort"), [cidr]
        )


def _associate(association: Any, properties: dict[str, Any], account_id: str, region_name: str) -> None:
    ec2 = ec2_backends[account_id][region_name]
    ec2.associate_route_table(association.route_table_id, subnet_id=association.subnet_id)


def _block_public_access(bucket: Any, properties: dict[str, Any], account_id: str, region_name: str) -> None:
    if block := properties.get("PublicAccessBlockConfiguration"):
        s3_backends[account_id][get_partition(region_name)].put_public_access_block(bucket.name, block)


def _put_policies(role: Any, properties: dict[str, Any], account_id: str, region_name: str) -> None:
    role.policies.clear()
    for policy in properties.get("Policies", []):
        role.put_policy(policy["PolicyName"], json.dumps(policy["PolicyDocument"]))


def _with_policies(update: Create) -> Any:
    def update_and_put(_owner: type[Any], /, **given: Any) -> Any:
        role = update(**given)
        _put_policies(
            role, given["cloudformation_json"]["Properties"], given["account_id"], given["region_name"]
        )
        return role

    return classmethod(update_and_put)
