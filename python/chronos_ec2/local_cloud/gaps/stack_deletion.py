"""Deletion of a CloudFormation stack that contains a network.

Real CloudFormation: resources go in reverse order of their dependencies, those with DeletionPolicy Retain
stay; DeleteStack itself always succeeds, and when a resource cannot go (a subnet with an instance in it) the
stack ends in DELETE_FAILED with its exports, to be deleted again later. moto deletes in random order,
cannot delete route tables, internet gateways and what connects them, so the VPC stays, answers DeleteStack
with an error and forgets the stack. Worse, its stacks make resources when somebody looks at them: to describe
a deleted stack brings parts of it back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from moto.cloudformation.models import CloudFormationBackend
from moto.cloudformation.parsing import ResourceMap
from moto.ec2.exceptions import DependencyViolationError
from moto.ec2.models import ec2_backends

from chronos_ec2.local_cloud.gaps import around


def _drop_association(ec2: Any, association: Any) -> None:
    table = ec2.get_route_table(association.route_table_id)
    for association_id, subnet_id in list(table._associations.items()):
        if subnet_id == association.subnet_id:
            ec2.disassociate_route_table(association_id)


_DELETERS: Final[dict[str, Callable[[Any, Any], object]]] = {
    "AWS::EC2::Route": lambda _ec2, _route: None,  # goes with its table
    "AWS::EC2::SubnetRouteTableAssociation": _drop_association,
    "AWS::EC2::VPCEndpoint": lambda ec2, endpoint: ec2.delete_vpc_endpoints([endpoint.id]),
    "AWS::EC2::RouteTable": lambda ec2, table: ec2.delete_route_table(table.id),
    "AWS::EC2::VPCGatewayAttachment": lambda ec2, one: ec2.detach_internet_gateway(
        one.gateway_id, one.vpc_id
    ),
    "AWS::EC2::InternetGateway": lambda ec2, gateway: ec2.delete_internet_gateway(gateway.id),
    "AWS::EC2::SecurityGroup": lambda ec2, group: ec2.delete_security_group(group_id=group.id),
    "AWS::EC2::Subnet": lambda ec2, subnet: ec2.delete_subnet(subnet.id),
    "AWS::EC2::VPC": lambda ec2, vpc: ec2.delete_vpc(vpc.id),
}


def install() -> None:
    """Make moto's stacks go in order, or stay and say why."""
    around(ResourceMap, "delete", _network_first)
    around(CloudFormationBackend, "delete_stack", _stays_when_it_fails)


def _network_first(delete: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(delete)
    def ordered(resources: Any) -> None:
        ec2 = ec2_backends[resources._account_id][resources._region_name]
        parsed = resources._parsed_resources
        ours = [(kind, name) for name in parsed if (kind := _kind_to_delete(resources, name))]
        _require_no_instances(ec2, [parsed[name].id for kind, name in ours if kind == "AWS::EC2::Subnet"])
        for kind in _DELETERS:
            for name in [name for found, name in ours if found == kind]:
                _DELETERS[kind](ec2, parsed[name])
                del parsed[name]  # moto then takes it for deleted, and so does a second try
        delete(resources)

    return ordered


def _kind_to_delete(resources: Any, name: str) -> str | None:
    template = resources._resource_json_map.get(name, {})
    kind = template.get("Type")
    return kind if kind in _DELETERS and template.get("DeletionPolicy") != "Retain" else None


def _require_no_instances(ec2: Any, subnet_ids: list[str]) -> None:
    for instance in ec2.all_instances():
        if instance.subnet_id in subnet_ids and instance.state != "terminated":
            raise DependencyViolationError(
                f"The subnet '{instance.subnet_id}' has dependencies and cannot be deleted."
            )


def _stays_when_it_fails(delete_stack: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(delete_stack)
    def delete_or_stay(backend: Any, name_or_stack_id: str) -> None:
        doomed = [s for s in backend.stacks.values() if name_or_stack_id in (s.stack_id, s.name)]
        try:
            delete_stack(backend, name_or_stack_id)
        except Exception as error:  # whatever moto raises, the stack is not gone
            reason = getattr(error, "message", repr(error))
            for stack in doomed:
                stack.status = "DELETE_FAILED"
                stack._add_stack_event("DELETE_FAILED", resource_status_reason=reason)
                backend.stacks[stack.stack_id] = stack
        else:
            for stack in [stack for stack in doomed if stack.status == "DELETE_COMPLETE"]:
                stack.output_map._output_json_map = {}
                stack.resource_map._resource_json_map = {}

    return delete_or_stay
