"""The availability zones of a region: their letters may have gaps, and some regions have two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.s3 import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ZONES: Final[dict[str, Any]] = {"Filters": [{"Name": "zone-type", "Values": ["availability-zone"]}]}
"""What DescribeAvailabilityZones is asked for: no local zones."""


def refuse_too_many_zones(ec2: EC2Client, region: str, wanted: int) -> None:
    """See that a region has as many zones as the stack wants; CloudFormation says it in riddles.

    Raises:
        SettingsError: it has fewer.
    """
    if wanted < 2:
        return
    with translated("EC2"):
        found = ec2.describe_availability_zones(**ZONES)["AvailabilityZones"]
    names = sorted(str(one["ZoneName"]) for one in found)
    if len(names) < wanted:
        raise SettingsError(
            f"availability_zones: {wanted}, and this account has {len(names)} in {region}: {', '.join(names)}"
        )
