"""What a burstable machine bills beside its hour: the CPU credits that it spends beyond those that it earns.

A credit is a minute of one vCPU at full work. T3, T3a and T4g start in unlimited mode, in which surplus
credits are billed, on the spot market too; T2 starts in standard mode, which has none. Credits an hour are
those of the EC2 user guide, "Key concepts for burstable performance instances"; a vCPU-hour of surplus costs
the same in every size and region, by EC2's page of on-demand prices.
"""

from __future__ import annotations

from typing import Final

_USD_PER_VCPU_HOUR: Final = {"t3": 0.05, "t3a": 0.05, "t4g": 0.04}
_VCPUS_AND_CREDITS: Final = {
    "nano": (2, 6),
    "micro": (2, 12),
    "small": (2, 24),
    "medium": (2, 24),
    "large": (2, 36),
    "xlarge": (4, 96),
    "2xlarge": (8, 192),
}


def surplus_usd_per_hour(instance_type: str) -> float:
    """What an hour with every processor at full work bills beside the hour itself; 0 for other families."""
    family, _, size = instance_type.partition(".")
    vcpus, credits_an_hour = _VCPUS_AND_CREDITS.get(size, (0, 0))
    return _USD_PER_VCPU_HOUR.get(family, 0.0) * (vcpus - credits_an_hour / 60)
