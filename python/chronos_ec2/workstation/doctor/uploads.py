"""What has been uploaded: scripts, training environment, data, each against its manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from chronos_ec2.words import size_text, some_of
from chronos_ec2.workstation.doctor.answers import NotKnown
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.image import image
from chronos_ec2.workstation.s3 import decode_object, get_bytes, list_prefix
from chronos_ec2.workstation.script_files import (
    SCRIPTS_PREFIX,
    digests_in,
    instance_scripts,
    is_of_library,
    not_ours,
    report_scripts,
)
from chronos_ec2.workstation.upload import DATA_PREFIX, ENVIRONMENT_PREFIX

# The glibc of the releases that Deep Learning AMIs are made from, by the words in an image's name.
_GLIBC: Final = {
    "Ubuntu 20.04": (2, 31),
    "Ubuntu 22.04": (2, 35),
    "Ubuntu 24.04": (2, 39),
    "Amazon Linux 2023": (2, 34),
}


def environment_manifest(facts: Facts) -> Mapping[str, Any] | None:
    """The uploaded environment's manifest; None when there is none."""
    return facts.shared("environment", "environment", lambda: _manifest(facts, ENVIRONMENT_PREFIX))


def data_manifest(facts: Facts) -> Mapping[str, Any] | None:
    """The uploaded data's manifest; None when there is none."""
    return facts.shared("data", "data", lambda: _manifest(facts, DATA_PREFIX))


def scripts(facts: Facts, repository: Path) -> list[Finding]:
    """Whether the uploaded scripts are there, and those of this checkout."""
    command = f"invoke upload --env {facts.settings.environment}"
    bucket, key = facts.bucket, f"{SCRIPTS_PREFIX}MANIFEST.sha256"
    facts.identity()
    held = get_bytes(facts.client("s3"), bucket, key)
    if held is None:
        return [error(f"s3://{bucket}/{key} is not there", command)]
    uploaded = digests_in(held[0])
    there = {item.key.removeprefix(SCRIPTS_PREFIX) for item in _listed(facts, SCRIPTS_PREFIX)}
    if lost := sorted(set(uploaded) - there):
        return [error(f"in the manifest, but not in the bucket: {some_of(lost)}", command)]
    if other := not_ours(uploaded, {**instance_scripts(repository), **report_scripts()}):
        # A launch compares the same, but for the drawing library.
        found = warning if all(map(is_of_library, other)) else error
        return [found(f"not those of this checkout: {some_of(other)}", command)]
    if "bin/jq" not in uploaded:
        return [warning("sent without jq, which not every AMI has", f"{command} (on Linux x86-64)")]
    return [ok(f"{len(uploaded)} files, those of this checkout")]


def environment(facts: Facts) -> list[Finding]:
    """Whether the training environment is there, whole, and runs on the image."""
    env = f"--env {facts.settings.environment}"
    command = f"invoke build-env {env} && invoke upload {env}"
    found = environment_manifest(facts)
    if found is None:
        return [error(f"s3://{facts.bucket}/{ENVIRONMENT_PREFIX}MANIFEST.json is not there", command)]
    name, size = str(found.get("archive")), found.get("bytes")
    there = {item.key: item.bytes for item in _listed(facts, ENVIRONMENT_PREFIX)}
    if there.get(f"{ENVIRONMENT_PREFIX}{name}") != size:
        return [error(f"{name} is missing, or is not the archive of its manifest", command)]
    if found.get("pieces_sha256") is None:
        return [error(f"{name} was built by an earlier version: its manifest lacks pieces_sha256", command)]
    if facts.settings.accelerator == "cuda" and not _uses_gpu(found):
        return [warning(f"{name} holds nothing that uses a GPU, and accelerator is cuda", command)]
    words = f"{name}, {size_text(float(size or 0))}, Python {found.get('python')}, glibc {found.get('glibc')}"
    newest = _glibc_on_image(facts)
    needed = tuple(int(part) for part in re.findall(r"\d+", str(found.get("glibc", ""))))
    if newest and needed > newest:
        older = ".".join(map(str, newest))
        return [error(f"{words}; the image has {older}", f"{command} (on an older Linux, or in a container)")]
    return [ok(words)]


def data(facts: Facts) -> list[Finding]:
    """Whether the training data is there, whole."""
    command = f"invoke upload --env {facts.settings.environment} --data DIR"
    found = data_manifest(facts)
    if found is None:
        return [error(f"s3://{facts.bucket}/{DATA_PREFIX}MANIFEST.json is not there", command)]
    wanted = {str(file["name"]): file["bytes"] for file in found["files"]}
    there = {item.key.removeprefix(DATA_PREFIX): item.bytes for item in _listed(facts, DATA_PREFIX)}
    if lost := sorted(name for name, size in wanted.items() if there.get(name) != size):
        return [error(f"missing, or not as in the manifest: {some_of(lost)}", command)]
    size = size_text(sum(wanted.values()))
    return [ok(f"{len(wanted)} files, {found['series']} series, {found['rows']} rows, {size}")]


def _manifest(facts: Facts, prefix: str) -> Mapping[str, Any] | None:
    facts.identity()
    key = f"{prefix}MANIFEST.json"
    held = get_bytes(facts.client("s3"), facts.bucket, key)
    return None if held is None else decode_object(held[0], f"s3://{facts.bucket}/{key}")


def _listed(facts: Facts, prefix: str) -> list[Any]:
    return list_prefix(facts.client("s3"), facts.bucket, prefix)


def _uses_gpu(found: Mapping[str, Any]) -> bool:
    packages = " ".join(map(str, found.get("requirements", [])))
    # nvidia-ml-py reads the driver's figures, and a torch+cpu uses none.
    return not packages or bool(
        re.search(r"nvidia-(cu|nccl)|cuda|cupy|tensorflow|\+cu\d", packages, re.IGNORECASE)
    )


def _glibc_on_image(facts: Facts) -> tuple[int, ...]:
    """The image's glibc by its name; empty for one that nobody knows, or when there is no image."""
    try:
        name = str(image(facts).get("Name", ""))
    except NotKnown:
        return ()
    return next((version for words, version in _GLIBC.items() if words in name), ())
