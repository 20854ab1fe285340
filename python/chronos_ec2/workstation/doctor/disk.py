"""Whether image, environment, data and free space fit on the volume."""

from __future__ import annotations

from typing import Final

from chronos_ec2.workstation.doctor.answers import NotKnown
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.image import image, root_gib
from chronos_ec2.workstation.doctor.uploads import data_manifest, environment_manifest

_GB: Final = 1e9
_GIB: Final = 1 << 30
# Of the CPU environment's 239 MB, 79 MB are left when packed (environment_archive.py).
_UNPACKED_FOR_PACKED: Final = 3.0


def disk(facts: Facts) -> list[Finding]:
    """The volume against what a run puts on it.

    The data comes beside the environment, so at its fullest it holds the image, the data, the environment as
    the instance uses it, and either the archive that it is unpacked from or what preflight wants free. EC2
    says how large an image's volume is, not how full, and nobody says whether a squashfs can be mounted:
    for a warning the one is counted as full and the other as unpacked, for an error neither.
    """
    settings, image_gib = facts.settings, root_gib(image(facts))
    if settings.volume_gb < image_gib:
        return [
            error(
                f"volume_gb is {settings.volume_gb}, and the image alone needs {image_gib}: EC2 would refuse",
                _larger(facts, image_gib),
            )
        ]
    packed, unpacked, data, mountable = _sizes(facts)
    room, free = settings.volume_gb * _GIB, settings.min_free_disk_gb * _GB
    most = data + unpacked + max(packed, free)
    least = data + packed + free if mountable else most
    parts = (
        f"environment {unpacked / _GB:.1f} GB, data {data / _GB:.1f} GB, free {settings.min_free_disk_gb} GB"
    )
    wanted = -(-int(most + image_gib * _GIB) // _GIB)
    if least > room:
        return [error(f"volume_gb is {settings.volume_gb}, too little for {parts}", _larger(facts, wanted))]
    words = f"volume_gb {settings.volume_gb} for image (up to {image_gib} GiB), {parts}"
    if most + image_gib * _GIB > room:
        unless = "the image be full" + (" or the environment have to be unpacked" if mountable else "")
        return [warning(f"{words}: does not fit should {unless}", _larger(facts, wanted))]
    return [ok(words)]


def _sizes(facts: Facts) -> tuple[float, float, float, bool]:
    """Bytes of the packed environment, the unpacked one and the data; whether the first can be mounted."""
    environment, data = environment_manifest(facts), data_manifest(facts)
    for name, found in (("environment", environment), ("data", data)):
        if found is None:
            raise NotKnown(name, LookupError(f"no {name} is uploaded"))
    assert environment is not None and data is not None
    packed = float(environment.get("bytes", 0))
    unpacked = float(environment.get("unpacked_bytes") or packed * _UNPACKED_FOR_PACKED)
    mountable = environment.get("format") == "squashfs"
    return packed, unpacked, float(sum(file["bytes"] for file in data["files"])), mountable


def _larger(facts: Facts, gib: int) -> str:
    return (
        f"invoke launch --env {facts.settings.environment} --set volume_gb={gib} (or set it in invoke.yaml)"
    )
