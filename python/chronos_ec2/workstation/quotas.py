"""Which Service Quotas entry limits an instance type, and how to ask for more of it.

EC2 limits vCPUs by family and market: a new account has 5 for the standard families and 0 for GPUs. Codes and
names are those of EC2's endpoints-and-quotas page in the AWS General Reference; `tests/unit/doctor` compares
the families with the instance types that EC2 describes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Market = Literal["on-demand", "spot"]

_FAMILY: Final = re.compile(r"([a-z]+)(\d*)")


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on vCPUs that run at the same time in one region.

    Attributes:
        code: what the Service Quotas API calls it.
        name: what the console calls it.
        families: the letters that its instance types begin with.
        market: which instances count.
    """

    code: str
    name: str
    families: tuple[str, ...]
    market: Market


_STANDARD: Final = ("a", "c", "d", "h", "i", "m", "r", "t", "z", "im", "is")
QUOTAS: Final = (
    Quota(
        "L-1216C47A",
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
        _STANDARD,
        "on-demand",
    ),
    Quota("L-DB2E81BA", "Running On-Demand G and VT instances", ("g", "gr", "vt"), "on-demand"),
    Quota("L-417A185B", "Running On-Demand P instances", ("p",), "on-demand"),
    Quota("L-6E869C2A", "Running On-Demand DL instances", ("dl",), "on-demand"),
    Quota("L-74FC7D96", "Running On-Demand F instances", ("f",), "on-demand"),
    Quota("L-1945791B", "Running On-Demand Inf instances", ("inf",), "on-demand"),
    Quota("L-2C3B7624", "Running On-Demand Trn instances", ("trn",), "on-demand"),
    Quota("L-7295265B", "Running On-Demand X instances", ("x",), "on-demand"),
    Quota("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", _STANDARD, "spot"),
    Quota("L-3819A6DF", "All G and VT Spot Instance Requests", ("g", "gr", "vt"), "spot"),
    Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", ("p2", "p3", "p4"), "spot"),
    Quota("L-C4BD4855", "All P5 Spot Instance Requests", ("p5",), "spot"),
    Quota("L-85EED4F7", "All DL Spot Instance Requests", ("dl",), "spot"),
    Quota("L-88CF9481", "All F Spot Instance Requests", ("f",), "spot"),
    Quota("L-B5D1601B", "All Inf Spot Instance Requests", ("inf",), "spot"),
    Quota("L-6B0D517C", "All Trn Spot Instance Requests", ("trn",), "spot"),
    Quota("L-E3A00192", "All X Spot Instance Requests", ("x",), "spot"),
)


def quota_of(instance_type: str, market: Market) -> Quota | None:
    """The quota that an instance counts against; None for a family that has none here.

    The family is the letters before the generation (`g4dn.2xlarge`: g); spot keeps P's generations apart.
    """
    found = _FAMILY.match(instance_type)
    if found is None:
        return None
    letters, generation = found[1], found[1] + found[2][:1]
    for quota in QUOTAS:
        if quota.market == market and {letters, generation} & set(quota.families):
            return quota
    return None


def increase_command(quota: Quota, vcpus: int, region: str) -> str:
    """The AWS command that asks for a higher quota; to ask is free."""
    return (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {quota.code} "
        f"--desired-value {vcpus} --region {region}"
    )
