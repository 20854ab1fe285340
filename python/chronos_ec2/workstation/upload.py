"""Send scripts, training environment and data to the bucket: what is there already is not sent again.

A manifest is written last and names the only files that an instance uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import NotUploaded
from chronos_ec2.state.clock import utc_now
from chronos_ec2.words import size_text
from chronos_ec2.workstation.content import Digests, mark_of
from chronos_ec2.workstation.dataset import check_dataset
from chronos_ec2.workstation.s3 import (
    decode_object,
    get_bytes,
    in_parallel,
    list_prefix,
    translated,
)
from chronos_ec2.workstation.script_files import SCRIPTS_PREFIX, instance_scripts
from chronos_ec2.workstation.transfer import LocalFile, look, put_manifest, send_all
from chronos_ec2.workstation.upload_progress import Progress

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENVIRONMENT_PREFIX: Final = "cached-datasets/python-env/"
DATA_PREFIX: Final = "cached-datasets/training-data/"


@dataclass(frozen=True, slots=True)
class UploadSummary:
    """What an upload did.

    Attributes:
        what: `scripts`, `environment` or `data`.
        sent, unchanged: how many files.
        bytes: how much was sent.
        manifest_sha256: the digest of the manifest that is in the bucket now.
    """

    what: str
    sent: int
    unchanged: int
    bytes: int
    manifest_sha256: str

    def __str__(self) -> str:
        return f"{self.what}: {self.sent} files sent ({size_text(self.bytes)}), {self.unchanged} unchanged"


def upload_scripts(
    s3: S3Client,
    bucket: str,
    repo_root: Path,
    *,
    tools: Mapping[str, Path] | None = None,
    keep_tools: bool = False,
    progress: Progress | None = None,
) -> UploadSummary:
    """Send what an instance needs to run, with `MANIFEST.sha256` in the form of sha256sum.

    Args:
        repo_root: this repository's root.
        tools: programs to send along, by their name under the scripts' prefix (instance_tools.py).
        keep_tools: leave other programs that are there, which this machine cannot make.
        progress: hears how it goes on.

    Raises:
        NotUploaded: a script is missing in the working tree, or changed while it was sent.
        StorageDenied: S3 refused.
    """
    wanted = {**instance_scripts(repo_root), **(tools or {})}
    files = [look(name, path) for name, path in sorted(wanted.items())]
    named = {file.name: file.sha256 for file in files}
    if keep_tools:
        named |= _tools_there(s3, bucket, named)
    key = f"{SCRIPTS_PREFIX}MANIFEST.sha256"
    results = send_all(s3, bucket, SCRIPTS_PREFIX, files, progress, manifest=key)
    manifest = "".join(f"{digest}  {name}\n" for name, digest in sorted(named.items())).encode()
    put_manifest(s3, bucket, key, manifest, "text/plain")
    _drop_leftovers(s3, bucket, named.keys() | {"MANIFEST.sha256"})
    return _summary("scripts", files, results, manifest)


def upload_environment(
    s3: S3Client,
    bucket: str,
    archive_dir: Path,
    *,
    progress: Progress | None = None,
    digests: Digests | None = None,
    machines: Sequence[str] = ("x86_64",),
) -> UploadSummary:
    """Send the training environment's archive and the MANIFEST.json that its build wrote.

    Args:
        archive_dir: the folder with both.
        machines: what the instances may be, as `uname -m` says it.
        progress: hears how it goes on.

    Raises:
        NotUploaded: there is no archive, or it is not what its manifest says.
        StorageDenied: S3 refused.
    """
    rebuild = "build it with invoke build-env"
    try:
        manifest = (archive_dir / "MANIFEST.json").read_bytes()
    except OSError as error:
        raise NotUploaded(
            f"no training environment in {archive_dir} ({error.strerror}); {rebuild}"
        ) from error
    described = decode_object(manifest, str(archive_dir / "MANIFEST.json"))
    name, sha256 = described.get("archive"), described.get("sha256")
    digests_named = isinstance(sha256, str) and "pieces_sha256" in described
    if not (isinstance(name, str) and digests_named) or Path(name).name != name:
        raise NotUploaded(
            f"{archive_dir / 'MANIFEST.json'} names no archive, sha256 and pieces_sha256; {rebuild}"
        )
    machine = described.get("machine")
    if machine not in (None, *machines):
        raise NotUploaded(
            f"{archive_dir / name} is built for {machine}, which the instances are not: "
            f"invoke build-env --platform linux-x86-64"
        )
    if not (archive_dir / name).is_file():
        raise NotUploaded(f"{archive_dir / name} is missing; {rebuild}")
    file = look(name, archive_dir / name, digests)
    if file.sha256 != sha256:
        raise NotUploaded(f"{file.path} is not what its MANIFEST.json says (sha256 {file.sha256}); {rebuild}")
    key = f"{ENVIRONMENT_PREFIX}MANIFEST.json"
    results = send_all(s3, bucket, ENVIRONMENT_PREFIX, [file], progress, manifest=key)
    put_manifest(s3, bucket, key, manifest, "application/json")
    return _summary("environment", [file], results, manifest)


def upload_data(
    s3: S3Client,
    bucket: str,
    folder: Path,
    min_length: int,
    columns: Columns,
    *,
    held_out: int = 0,
    out: TextIO,
    progress: Progress | None = None,
    digests: Digests | None = None,
    now: Callable[[], datetime] = utc_now,
) -> UploadSummary:
    """Check a folder of Parquet files and send it.

    Args:
        min_length: how many rows the trainer needs of each series.
        columns: which columns it reads.
        held_out: the last rows of each series, which its forecast is scored by.
        out: where warnings about the data go.
        digests: of files that were read before.
        progress: hears how it goes on.

    Raises:
        DataInvalid: the data is not what a trainer can read; nothing was sent.
        NotUploaded: a file changed between the check and the end; the manifest is as it was.
        StorageDenied: S3 refused.
    """
    marks = {path.name: mark_of(path) for path in folder.glob("*.parquet") if path.is_file()}
    digests = digests or Digests()
    report = check_dataset(folder, min_length, columns, digests, held_out=held_out)
    report.raise_if_invalid()
    for finding in report.warnings:
        out.write(f"{finding}\n")
    files = [
        LocalFile(item.name, path, digests.of(path), item.bytes, marks.get(item.name, ()))
        for item in report.files
        for path in [folder / item.name]
    ]
    described = report.manifest()
    key = f"{DATA_PREFIX}MANIFEST.json"
    # The same data have the same manifest, byte for byte: a run goes on with what it has begun with.
    manifest = (json.dumps(described, indent=2) + "\n").encode()
    results = send_all(s3, bucket, DATA_PREFIX, files, progress, manifest=key)
    put_manifest(s3, bucket, key, manifest, "application/json")
    return _summary("data", files, results, manifest)


def _tools_there(s3: S3Client, bucket: str, sent: Collection[str]) -> dict[str, str]:
    """The programs in the bucket that are not sent now, with the sha256 of each; they are a few MB."""
    there = [item.key for item in list_prefix(s3, bucket, f"{SCRIPTS_PREFIX}bin/")]
    kept = [key for key in there if key.removeprefix(SCRIPTS_PREFIX) not in sent]
    found = zip(kept, in_parallel(lambda key: get_bytes(s3, bucket, key), kept), strict=True)
    return {
        key.removeprefix(SCRIPTS_PREFIX): hashlib.sha256(held[0]).hexdigest() for key, held in found if held
    }


def _drop_leftovers(s3: S3Client, bucket: str, names: Iterable[str]) -> None:
    """Delete scripts that are no longer part of the project: instances download the whole prefix."""
    kept = {f"{SCRIPTS_PREFIX}{name}" for name in names}
    for item in list_prefix(s3, bucket, SCRIPTS_PREFIX):
        if item.key not in kept:
            with translated(f"s3://{bucket}/{item.key}"):
                s3.delete_object(Bucket=bucket, Key=item.key)


def _summary(
    what: str, files: Sequence[LocalFile], results: Sequence[bool], manifest: bytes
) -> UploadSummary:
    sent = [file for file, done in zip(files, results, strict=True) if done]
    total = sum(file.bytes for file in sent)
    return UploadSummary(what, len(sent), len(files) - len(sent), total, hashlib.sha256(manifest).hexdigest())
