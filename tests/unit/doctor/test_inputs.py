"""What a run is made from, and what is there already: uploads, disk, the holder, leftovers."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.doctor.findings import Level

from .case import Case, as_is, verify
from .fake_aws import NOW
from .world import BUCKET, INSTANCE, RUN, World, image, uploaded_scripts

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
UPLOAD = "invoke upload --env dev"
BUILD = "invoke build-env --env dev && invoke upload --env dev"
DATA = "invoke upload --env dev --data DIR"
REAP = "invoke reap --env dev"
SCRIPTS = "cached-datasets/scripts/"
MANIFEST = f"{SCRIPTS}MANIFEST.sha256"


def drop(*keys: str) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        for key in keys:
            del world.s3.objects[f"cached-datasets/{key}"]

    return arrange


def four_tools_gone(world: World) -> None:
    names = (f"{'0' * 64}  bin/{name}\n" for name in "abcd")
    world.put(MANIFEST, world.s3.objects[MANIFEST] + "".join(names).encode())


def another_checkout(world: World) -> None:
    sums = world.s3.objects[MANIFEST].decode()
    world.put(MANIFEST, sums.replace(sums[:10], "0" * 10, 1).encode())


def another_library(world: World) -> None:
    sums = world.s3.objects[MANIFEST].decode()
    world.put(MANIFEST, re.sub(r".{64}(?=  report/uPlot.min.css)", "0" * 64, sums).encode())


def with_a_script_of_tomorrow(world: World) -> None:
    world.put(f"{SCRIPTS}lib/tomorrow.sh", b"")
    world.put(MANIFEST, world.s3.objects[MANIFEST] + b"0" * 64 + b"  lib/tomorrow.sh\n")


def from_a_mac(world: World) -> None:
    kept = [line for line in world.s3.objects[MANIFEST].decode().splitlines(True) if "  bin/" not in line]
    world.put(MANIFEST, f"{''.join(kept)}{'0' * 64}  bin/s5cmd\n".encode())
    world.put(f"{MANIFEST.rpartition('/')[0]}/bin/s5cmd", b"")


def environment(**changes: Any) -> Callable[[World], object]:
    return lambda world: world.environment_manifest(**changes)


def on_image(name: str, glibc: str) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        world.plan["ec2", "describe_images"] = {"Images": [image(Name=name)]}
        world.environment_manifest(glibc=glibc)

    return arrange


def without_image(world: World) -> None:
    world.plan["ec2", "describe_images"] = {"Images": []}
    world.environment_manifest(glibc="9.99")


def volume(gib: int, image_gib: int = 50, **changes: Any) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        world.set(volume_gb=gib, **changes)
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": image_gib}}
        world.plan["ec2", "describe_images"] = {"Images": [image(BlockDeviceMappings=[disk])]}

    return arrange


def filled_to_the_last_block(image_gib: int, environment_gib: int) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        volume(image_gib + environment_gib, image_gib, min_free_disk_gb=0)(world)
        # The archive has 1000 bytes, the data 500.
        world.environment_manifest(unpacked_bytes=(environment_gib << 30) - 1500)

    return arrange


def much_data(world: World) -> None:
    world.data_manifest(size=80_000_000_000)


def squashfs(packed_gb: int, gib: int) -> Callable[[World], object]:
    """An image that takes a third of what it holds, on a volume of so many GiB."""

    def arrange(world: World) -> None:
        volume(gib, 8, min_free_disk_gb=0)(world)
        sizes = {"bytes": packed_gb * 10**9, "unpacked_bytes": 3 * packed_gb * 10**9}
        world.environment_manifest(format="squashfs", **sizes)

    return arrange


def old_manifest(world: World) -> None:
    """Of a build that did not say yet how much room it takes."""
    world.environment_manifest(unpacked_bytes=None, bytes=4_000_000_000)


def held(state: str = "running", **changes: Any) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        world.hold(**changes)
        if state:
            world.instance(state)

    return arrange


def held_by_a_corpse(world: World) -> None:
    held("terminated")(world)


def corrupt_state(world: World) -> None:
    world.put("dev/system-state.json", b"not json")


def orphan(world: World) -> None:
    world.instance(run_id="2026-11-23-120000")


def staged(world: World) -> None:
    """Staged states of writers that died; they are hours old by this clock."""
    world.clock_ahead_seconds = 7200
    for number in range(2):
        world.put(f"dev/system-state.json.tmp-{number}", b"{}")


def forgotten_switch(world: World) -> None:
    world.plan["scheduler", "list_schedules"] = {"Schedules": [{"Name": f"chronos-dev-{RUN}"}]}


def forgotten_disk(world: World) -> None:
    disk = {"VolumeId": "vol-1", "CreateTime": NOW - timedelta(days=1), "Size": 100}
    world.plan["ec2", "describe_volumes"] = {"Volumes": [disk]}


def unseen_disks(world: World) -> None:
    world.aws.deny("ec2", "describe_volumes", "UnauthorizedOperation")


def overdue(world: World) -> None:
    deadline = to_text(NOW - timedelta(minutes=1))
    control = {"revision": 1, "writer": "w", "deadline": deadline, "attempt": 1}
    held(control=control)(world)


CASES = [
    Case(
        "scripts",
        "many deleted",
        four_tools_gone,
        ERROR,
        "not in the bucket: bin/a, bin/b, bin/c and 1 more",
        UPLOAD,
    ),
    Case("scripts", "uploaded", as_is, OK, f"{len(uploaded_scripts())} files, those of this checkout"),
    Case(
        "scripts",
        "never sent",
        drop("scripts/MANIFEST.sha256"),
        ERROR,
        f"s3://{BUCKET}/{MANIFEST} is",
        UPLOAD,
    ),
    Case(
        "scripts", "deleted", drop("scripts/bootstrap.sh"), ERROR, "not in the bucket: bootstrap.sh", UPLOAD
    ),
    Case(
        "scripts",
        "of another checkout",
        another_checkout,
        ERROR,
        "not those of this checkout: bootstrap",
        UPLOAD,
    ),
    Case("scripts", "newer", with_a_script_of_tomorrow, ERROR, "this checkout: lib/tomorrow.sh", UPLOAD),
    Case(
        "scripts",
        "with another drawing library",
        another_library,
        WARNING,
        "this checkout: report/uPlot.min.css",
        UPLOAD,
    ),
    Case("scripts", "without jq", from_a_mac, WARNING, "sent without jq", f"{UPLOAD} (on Linux x86-64)"),
    Case("environment", "uploaded", as_is, OK, "env.tar.gz, 1.0 kB, Python 3.11.7, glibc 2.36"),
    Case(
        "environment",
        "never sent",
        drop("python-env/MANIFEST.json"),
        ERROR,
        "MANIFEST.json is not there",
        BUILD,
    ),
    Case(
        "environment",
        "deleted",
        drop("python-env/env.tar.gz"),
        ERROR,
        "env.tar.gz is missing, or is not",
        BUILD,
    ),
    Case(
        "environment",
        "half sent",
        environment(bytes=1001),
        ERROR,
        "is not the archive of its manifest",
        BUILD,
    ),
    Case(
        "environment",
        "of an earlier version",
        environment(pieces_sha256=None),
        ERROR,
        "its manifest lacks pieces_sha256",
        BUILD,
    ),
    Case(
        "environment",
        "for the CPU",
        environment(requirements=["torch==2.13.0+cpu", "nvidia-ml-py==13.0.0"]),
        WARNING,
        "env.tar.gz holds nothing that uses a GPU, and accelerator is cuda",
        BUILD,
    ),
    Case(
        "environment",
        "newer than the image",
        on_image("Deep Learning AMI (Ubuntu 22.04) 2026", "2.36"),
        ERROR,
        "glibc 2.36; the image has 2.35",
        f"{BUILD} (on an older Linux, or in a container)",
    ),
    Case("environment", "as new as the image", on_image("AMI (Ubuntu 22.04)", "2.35"), OK, "glibc 2.35"),
    Case("environment", "on an image nobody knows", on_image("mine", "9.99"), OK, "glibc 9.99"),
    Case("environment", "with no image to compare with", without_image, OK, "glibc 9.99"),
    Case("data", "uploaded", as_is, OK, "1 files, 2 series, 10 rows, 500 B"),
    Case(
        "data", "never sent", drop("training-data/MANIFEST.json"), ERROR, "MANIFEST.json is not there", DATA
    ),
    Case("data", "deleted", drop("training-data/a.parquet"), ERROR, "as in the manifest: a.parquet", DATA),
    Case("data", "replaced", lambda world: world.data_manifest(501), ERROR, "the manifest: a.parquet", DATA),
    Case(
        "disk",
        "large enough",
        as_is,
        OK,
        "volume_gb 100 for image (up to 50 GiB), environment 6.0 GB, data 0.0 GB",
    ),
    Case(
        "disk",
        "smaller than the image",
        volume(40),
        ERROR,
        "volume_gb is 40, and the image alone needs 50: EC2 would refuse",
        "invoke launch --env dev --set volume_gb=50 (or set it in invoke.yaml)",
    ),
    Case("disk", "full with the image", filled_to_the_last_block(8, 4), OK, "volume_gb 12 for image"),
    Case("disk", "full without one", filled_to_the_last_block(0, 12), OK, "volume_gb 12 for image"),
    Case(
        "disk",
        "as large as the image",
        volume(50),
        WARNING,
        "volume_gb 50 for image (up to 50 GiB)",
        "invoke launch --env dev --set volume_gb=75 (or set it in invoke.yaml)",
    ),
    Case(
        "disk",
        "too small even on an empty image",
        volume(24, image_gib=8),
        ERROR,
        "volume_gb is 24, too little for environment 6.0 GB, data 0.0 GB, free 20 GB",
        "invoke launch --env dev --set volume_gb=33 (or set it in invoke.yaml)",
    ),
    Case(
        "disk",
        "too small should the image be full",
        volume(60),
        WARNING,
        "does not fit should the image be full",
        "invoke launch --env dev --set volume_gb=75 (or set it in invoke.yaml)",
    ),
    Case(
        "disk",
        "too small for the data",
        much_data,
        WARNING,
        "data 80.0 GB",
        "invoke launch --env dev --set volume_gb=149 (or set it in invoke.yaml)",
    ),
    Case("disk", "of an image that is mounted", squashfs(10, 46), OK, "environment 30.0 GB"),
    Case(
        "disk",
        "of an image that fits if it is mounted",
        squashfs(10, 20),
        WARNING,
        "does not fit should the image be full or the environment have to be unpacked",
        "invoke launch --env dev --set volume_gb=46 (or set it in invoke.yaml)",
    ),
    Case(
        "disk",
        "of an image that does not fit even mounted",
        squashfs(10, 9),
        ERROR,
        "volume_gb is 9, too little for environment 30.0 GB",
        "invoke launch --env dev --set volume_gb=46 (or set it in invoke.yaml)",
    ),
    Case(
        "disk",
        "of an older build, by its packed size",
        old_manifest,
        OK,
        "environment 12.0 GB",
    ),
    Case("holder", "nobody", as_is, OK, "no run holds dev"),
    Case(
        "holder",
        "a run",
        held(),
        WARNING,
        f"run {RUN} (training, started 30 min 00 s ago) holds dev: a launch would be refused",
        "invoke watch --env dev (or invoke kill, which ends it)",
    ),
    Case("holder", "a run without its machine", held_by_a_corpse, WARNING, f"run {RUN} (training", REAP),
    Case(
        "holder",
        "a corrupt state file",
        corrupt_state,
        ERROR,
        "the state file cannot be read",
        "invoke kill --env dev",
    ),
    Case("leftovers", "none", as_is, OK, "nothing that nobody owns"),
    Case("leftovers", "a run that is well", held(), OK, "nothing that nobody owns"),
    Case("leftovers", "an orphan", orphan, ERROR, f"{INSTANCE}: belongs to no live run; it bills", REAP),
    Case("leftovers", "a disk", forgotten_disk, ERROR, "vol-1: 100 GB that no instance uses; it bills", REAP),
    Case("leftovers", "the switch of an ended run", forgotten_switch, OK, "nothing that nobody owns"),
    Case(
        "leftovers",
        "nobody can see",
        unseen_disks,
        WARNING,
        "volumes: could not be listed: AWS refused DescribeVolumes",
        "invoke reap --env dev --dry-run (to see the rest)",
    ),
    Case("leftovers", "a run past its deadline", overdue, ERROR, f"{INSTANCE}: is past its deadline", REAP),
    Case("leftovers", "staged states", staged, WARNING, "staged and never published, and 1 more", REAP),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_look_at_inputs_and_holdings(case: Case) -> None:
    verify(case)


def test_the_disk_is_not_judged_before_everything_is_uploaded() -> None:
    world = World()
    drop("training-data/MANIFEST.json")(world)
    reports = {report.check: report for report in world.round()}
    assert (reports["disk"].findings, reports["disk"].because) == ((), "data")
