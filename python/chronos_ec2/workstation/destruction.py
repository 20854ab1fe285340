"""What must not be when the stack is deleted: a run that still needs its role, its subnet and its bucket."""

from __future__ import annotations

from collections.abc import Sequence

from chronos_ec2.errors import NotDeployed, StateHeld
from chronos_ec2.state.store import state_key
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.instances import live_instances
from chronos_ec2.workstation.s3 import head


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
    ids = [item["InstanceId"] for item in live_instances(aws.ec2)]
    if ids:
        raise StateHeld(f"instances still run ({', '.join(ids)}): end them with invoke reap or invoke kill")
