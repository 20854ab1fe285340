"""What must not be when the stack is deleted: a run that still needs its role, its subnet and its bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chronos_ec2.errors import NotDeployed, StateHeld
from chronos_ec2.state.store import state_key
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.s3 import head, translated

_LIVE: Final = ["pending", "running", "stopping", "stopped"]


def refuse_while_running(aws: Aws, environments: Sequence[str]) -> None:
    """Check that none of the environments that share the stack has a run.

    Raises:
        StateHeld: one has a state file, or the project has a live instance; names what to end.
    """
    try:
        bucket = aws.bucket
    except NotDeployed:
        return  # nothing that a run could need; `cdk destroy` says so itself
    for environment in environments:
        if head(aws.s3, bucket, state_key(environment)) is not None:
            raise StateHeld(
                f"a run holds {environment}: end it with invoke kill --env {environment}, "
                "or wait for it (invoke watch)"
            )
    filters = [
        {"Name": "tag:Project", "Values": ["Chronos-Training"]},
        {"Name": "instance-state-name", "Values": _LIVE},
    ]
    with translated("EC2"):
        pages = list(aws.ec2.get_paginator("describe_instances").paginate(Filters=filters))
    ids = [
        item["InstanceId"] for page in pages for group in page["Reservations"] for item in group["Instances"]
    ]
    if ids:
        raise StateHeld(f"instances still run ({', '.join(ids)}): end them with invoke reap or invoke kill")
