"""The machine image that a launch would boot."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.doctor.answers import ApiError, NotKnown
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.machines import (
    ARCHITECTURE,
    BEFORE_TURING,
    choose,
    instance_types,
)

_OPEN_DRIVER: Final = "OSS Nvidia Driver"


class NoImage(ChronosError):
    """There is no image that a launch could take."""


def image(facts: Facts) -> Mapping[str, Any]:
    """The image as EC2 describes it, found as a launch finds it: fixed id, SSM parameter, newest by name.

    Raises:
        NotKnown: there is none.
    """
    return facts.shared("image", "image", lambda: _find(facts))


def image_check(facts: Facts) -> list[Finding]:
    """Whether there is an image, and it is one that the run can boot from."""
    try:
        found = image(facts)
    except NotKnown as problem:
        if isinstance(problem.cause, NoImage):
            return [error(str(problem.cause), choose(facts, "ami_id"))]
        raise
    name = f"{found['ImageId']} {found.get('Name', '')}".strip()
    if found.get("State") != "available":
        return [error(f"{name} is {found.get('State')}", choose(facts, "ami_id"))]
    if found["Architecture"] != ARCHITECTURE:
        return [error(f"{name} is for {found['Architecture']}, not {ARCHITECTURE}", choose(facts, "ami_id"))]
    if found.get("RootDeviceType") != "ebs" or not found.get("RootDeviceName"):
        return [error(f"{name} has no EBS root device", choose(facts, "ami_id"))]
    if _OPEN_DRIVER in name and (old := _types_before_turing(facts)):
        text = f"{name} cannot drive {', '.join(old)}: NVIDIA's open driver begins with Turing (T4)"
        return [error(text, choose(facts, "instance_type"))]
    end = found.get("DeprecationTime")
    if end and datetime.fromisoformat(end) < facts.now():
        return [warning(f"{name} is deprecated since {end[:10]}", choose(facts, "ami_id"))]
    return [ok(name)]


def _types_before_turing(facts: Facts) -> list[str]:
    return [
        name
        for name, described in instance_types(facts).items()
        if any(gpu["Name"] in BEFORE_TURING for gpu in described.get("GpuInfo", {}).get("Gpus", []))
    ]


def root_gib(found: Mapping[str, Any]) -> int:
    """The size of an image's root volume, the least that EC2 accepts for it; 0 when it does not say."""
    for mapping in found.get("BlockDeviceMappings", []):
        if mapping.get("DeviceName") == found.get("RootDeviceName"):
            return int(mapping.get("Ebs", {}).get("VolumeSize", 0))
    return 0


def _find(facts: Facts) -> Mapping[str, Any]:
    settings = facts.settings
    ami = settings.ami_id or _from_parameter(facts)
    if not ami:
        return _newest_by_name(facts)
    try:
        found = facts.ask("ec2", "describe_images", ImageIds=[ami])["Images"]
    except ApiError as refusal:
        if not refusal.code.startswith("InvalidAMIID"):
            raise
        found = []
    if not found:
        raise NoImage(f"{ami} is not there in {settings.region}")
    return dict(found[0])


def _from_parameter(facts: Facts) -> str:
    name = facts.settings.ami_parameter
    try:
        return str(facts.ask("ssm", "get_parameter", Name=name)["Parameter"]["Value"])
    except ApiError:
        return ""  # as in a launch, whatever the reason: the name is asked for next


def _newest_by_name(facts: Facts) -> Mapping[str, Any]:
    settings = facts.settings
    wanted = {"name": settings.ami_name, "state": "available", "architecture": ARCHITECTURE}
    filters = [{"Name": key, "Values": [value]} for key, value in wanted.items()]
    found = facts.pages("ec2", "describe_images", "Images", Owners=["amazon"], Filters=filters)
    if not found:
        raise NoImage(
            f"neither SSM parameter {settings.ami_parameter} nor an image named "
            f"{settings.ami_name!r} in {settings.region}"
        )
    return dict(max(found, key=lambda one: str(one["CreationDate"])))
