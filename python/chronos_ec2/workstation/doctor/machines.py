"""The instance types that a launch may use: what they are, and where EC2 offers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from chronos_ec2.workstation.doctor.answers import ApiError, NotKnown
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.network import subnets
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.zones import ZONES

ARCHITECTURE: Final = "x86_64"
# NVIDIA GPUs of EC2 below compute capability 8.0, the first with bf16 and tf32 (CUDA C++ Programming Guide).
BEFORE_TURING: Final = frozenset({"V100", "K80", "M60", "P100"})
_BEFORE_AMPERE: Final = BEFORE_TURING | {"T4", "T4g"}


def instance_types(facts: Facts) -> dict[str, Mapping[str, Any]]:
    """The settings' instance types as EC2 describes them, in the ladder's order."""

    def look() -> dict[str, Mapping[str, Any]]:
        names = list(dict.fromkeys((facts.settings.instance_type, *facts.settings.fallback_instance_types)))
        found = facts.ask("ec2", "describe_instance_types", InstanceTypes=names)["InstanceTypes"]
        described = {one["InstanceType"]: one for one in found}
        return {name: described[name] for name in names}

    return facts.shared("instance type", "instance types", look)


def choose(facts: Facts, key: str = "instance_type") -> str:
    """The words that ask for another value of a setting."""
    return f"set {key} for {facts.settings.environment} in invoke.yaml"


def instance_types_check(facts: Facts) -> list[Finding]:
    """Whether each type exists, and is the kind of machine that the run needs; a line a type."""
    try:
        found = instance_types(facts)
    except NotKnown as problem:
        if isinstance(problem.cause, ApiError) and problem.cause.code == "InvalidInstanceType":
            return [error(problem.cause.message, choose(facts))]
        raise
    return [_judge(facts, name, described) for name, described in found.items()]


def _judge(facts: Facts, name: str, described: Mapping[str, Any]) -> Finding:
    settings, gpus = facts.settings, described.get("GpuInfo", {}).get("Gpus", [])
    key = "instance_type" if name == settings.instance_type else "fallback_instance_types"
    nvidia = [gpu for gpu in gpus if gpu["Manufacturer"] == "NVIDIA"]
    if ARCHITECTURE not in described["ProcessorInfo"]["SupportedArchitectures"]:
        return error(
            f"{name} is no {ARCHITECTURE}, which the training environment is for", choose(facts, key)
        )
    lacking = set(ladder_markets(settings)) - set(described["SupportedUsageClasses"])
    if lacking:
        return error(f"{name} is not sold as {', '.join(sorted(lacking))}", choose(facts, key))
    if settings.accelerator == "cuda" and not nvidia:
        return error(f"{name} has no NVIDIA GPU, and accelerator is cuda", choose(facts, key))
    if settings.accelerator == "cpu" and nvidia:
        return warning(
            f"{name} has a GPU that a run with accelerator: cpu pays for in vain", choose(facts, key)
        )
    words = f"{name}: {describe(described)}"
    old = [gpu["Name"] for gpu in nvidia if gpu["Name"] in _BEFORE_AMPERE]
    if not old:
        return ok(words)
    note = f"{old[0]} has neither bf16 nor tf32"
    if settings.trainer != "command":
        return ok(f"{words}; {note}: our trainers compute in fp32 there")
    return warning(
        f"{words}; {note}: torch falls back to slower types and does not say so",
        "invoke launch --set instance_type=g5.2xlarge (or ask your trainer for fp16)",
    )


def describe(described: Mapping[str, Any]) -> str:
    """A type in words: `8 vCPU, 32 GiB, 1 x T4 with 16 GiB`."""
    parts = [
        f"{described['VCpuInfo']['DefaultVCpus']} vCPU",
        f"{described['MemoryInfo']['SizeInMiB'] / 1024:g} GiB",
    ]
    for gpu in described.get("GpuInfo", {}).get("Gpus", []):
        parts.append(f"{gpu['Count']} x {gpu['Name']} with {gpu['MemoryInfo']['SizeInMiB'] / 1024:.0f} GiB")
    return ", ".join(parts)


def zones(facts: Facts) -> list[Finding]:
    """In which of the stack's zones EC2 offers the types; a line a type."""
    types = list(instance_types(facts))
    places = list(dict.fromkeys(str(one["AvailabilityZone"]) for one in subnets(facts)))
    wanted = [{"Name": "instance-type", "Values": types}]
    offers = facts.pages(
        "ec2",
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=wanted,
    )
    return [
        _offered(facts, name, places, {one["Location"] for one in offers if one["InstanceType"] == name})
        for name in types
    ]


def zones_of_region(facts: Facts) -> list[str]:
    """The zones that this account has here, in their order: letters may be missing."""
    answer = facts.ask("ec2", "describe_availability_zones", **ZONES)
    return sorted(one["ZoneName"] for one in answer["AvailabilityZones"])


def _offered(facts: Facts, name: str, places: list[str], offered: set[str]) -> Finding:
    environment, region = facts.settings.environment, facts.settings.region
    here = [zone for zone in places if zone in offered]
    if here:
        return ok(f"{name} in {', '.join(here)} ({len(here)} of the stack's {len(places)} zones)")
    if not offered:
        return error(f"{name} is not offered in {region}", choose(facts))
    # The stack takes the region's zones in their order; a local zone is none of them.
    needed = next((place for place, zone in enumerate(zones_of_region(facts), 1) if zone in offered), None)
    if needed is None:
        return error(f"{name} is offered in {', '.join(sorted(offered))} alone", choose(facts))
    return error(
        f"{name} is not offered in {', '.join(places)}, only in {', '.join(sorted(offered))}",
        f"CHRONOS_AVAILABILITY_ZONES={needed} invoke deploy --env {environment} (and set it in invoke.yaml)",
    )
