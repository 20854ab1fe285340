"""The project's EC2 instances, found by their tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.workstation.s3 import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

LIVE_STATES: Final = ("pending", "running", "stopping", "stopped")
"""The states in which an instance, or at least its disk, still bills."""


def live_instances(ec2: EC2Client, environment: str | None = None) -> list[Any]:
    """The live instances with the project's tag, as DescribeInstances describes them.

    Args:
        environment: only those of this environment; None means all.

    Raises:
        ChronosError: EC2 could not be asked.
    """
    wanted: list[Any] = [
        {"Name": "tag:Project", "Values": ["Chronos-Training"]},
        {"Name": "instance-state-name", "Values": list(LIVE_STATES)},
    ]
    if environment is not None:
        wanted.append({"Name": "tag:Environment", "Values": [environment]})
    with translated("EC2"):
        pages = list(ec2.get_paginator("describe_instances").paginate(Filters=wanted))
    groups = [group for page in pages for group in page["Reservations"]]
    return [item for group in groups for item in group["Instances"]]
