"""Download a run's files into a folder: several at once, each atomically, none twice."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError, ToolMissing
from chronos_ec2.metrics_log import PARTS, WHOLE
from chronos_ec2.words import size_text
from chronos_ec2.workstation.event_files import FOLDER, write_events
from chronos_ec2.workstation.run_ids import latest_run_id, list_run_ids, no_such_run, run_prefix
from chronos_ec2.workstation.s3 import (
    MISSING_CODES,
    StorageUnreachable,
    StoredObject,
    error_code,
    in_parallel,
    list_prefix,
    translate,
)
from chronos_ec2.workstation.transfer import PARTS_AT_ONCE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REWRITES: Final = 4
_FETCHED: Final = "fetched"
_UNCHANGED: Final = "unchanged"
_VANISHED: Final = "vanished"
_UNFIT: Final = "unfit"
_NO_NAME_HERE: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)
"""A key may be what no file of this system can be called, or need a folder where another key has a file."""


@dataclass(frozen=True, slots=True)
class FetchSummary:
    """What a download did.

    Attributes:
        fetched, unchanged: how many files.
        bytes: how much was downloaded.
        vanished: names that the run deleted meanwhile, as it does with old checkpoints.
        refused: keys that would have left the folder, or cannot be a file's name in it.
    """

    run_id: str
    folder: Path
    fetched: int
    unchanged: int
    bytes: int
    vanished: tuple[str, ...]
    refused: tuple[str, ...]


def fetch(
    s3: S3Client, bucket: str, environment: str, *, into: Path, out: TextIO, run_id: str | None = None
) -> FetchSummary:
    """Download everything under a run's prefix, and its phase log, into `into/{run_id}/`.

    A run that still goes on, or that ended early, gives what it has. A local file that differs from the
    bucket's is replaced. The parts of the metrics come only where there is no whole yet. What is measured is
    written once more for TensorBoard.

    Args:
        run_id: which run; None means the active one, else the newest.

    Raises:
        NoSuchRun: nothing lies under that run; names the runs there are.
        StorageDenied: S3 refused.
        ChronosError: the folder cannot be written.
    """
    run_id = run_id or latest_run_id(s3, bucket, environment)
    prefix = run_prefix(environment, run_id)
    found = list_prefix(s3, bucket, prefix)
    if not found:
        raise no_such_run(environment, run_id, list_run_ids(s3, bucket, environment))
    folder = into / run_id
    if any(item.key == prefix + WHOLE for item in found):
        found = [item for item in found if not item.key.startswith(prefix + PARTS)]
        _drop_parts(folder)
    placed = [(item, _place(folder, item.key[len(prefix) :])) for item in found if not item.key.endswith("/")]
    placed += [
        (item, _place(folder, "logs/phase_logs.json"))
        for item in list_prefix(s3, bucket, f"logs/{run_id}/phase_logs.json")
    ]
    refused = [item.key for item, path in placed if path is None]
    for key in refused:
        out.write(f"refused {key!r}: it would leave {folder}\n")
    wanted = [(item, path) for item, path in placed if path is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ChronosError(f"cannot write {folder}: {error.strerror or error}") from error
    results = in_parallel(lambda pair: _bring(s3, bucket, *pair), wanted)
    for (item, _), result in zip(wanted, results, strict=True):
        if result == _UNFIT:
            refused.append(item.key)
            out.write(f"refused {item.key!r}: no file here can have that name\n")
    summary = _summarise(run_id, folder, wanted, results, tuple(refused))
    out.write(
        f"{summary.folder}: {summary.fetched} files fetched ({size_text(summary.bytes)}), "
        f"{summary.unchanged} unchanged\n"
    )
    for name in summary.vanished:
        out.write(f"  {name if name.isprintable() else repr(name)} was deleted in the bucket meanwhile\n")
    _write_events(folder, out)
    return summary


def _drop_parts(folder: Path) -> None:
    """Remove the parts of the metrics that an earlier fetch brought, while the run went on."""
    for part in (folder / PARTS).glob("*.jsonl"):
        with suppress(OSError):
            part.unlink()
    with suppress(OSError):
        (folder / PARTS).rmdir()


def _write_events(folder: Path, out: TextIO) -> None:
    """TensorBoard's file: made of what is there, so its lack is told and nothing more."""
    try:
        written = write_events(folder)
    except (OSError, ToolMissing) as error:
        out.write(f"  no {FOLDER}/ for TensorBoard: {error}\n")
    else:
        if written is not None:
            out.write(f"  curves: tensorboard --logdir {folder.parent}\n")


def _summarise(
    run_id: str,
    folder: Path,
    wanted: Iterable[tuple[StoredObject, Path]],
    results: list[str],
    refused: tuple[str, ...],
) -> FetchSummary:
    done = list(zip(wanted, results, strict=True))
    return FetchSummary(
        run_id=run_id,
        folder=folder,
        fetched=results.count(_FETCHED),
        unchanged=results.count(_UNCHANGED),
        bytes=sum(item.bytes for (item, _), result in done if result == _FETCHED),
        vanished=tuple(str(path.relative_to(folder)) for (_, path), result in done if result == _VANISHED),
        refused=refused,
    )


def _place(folder: Path, name: str) -> Path | None:
    """Where a key's file goes, or None when it would leave the folder (also by way of a symlink)."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        return None
    path = folder.joinpath(*parts)
    try:
        return path if path.parent.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError):  # a name that is too long; links in a circle
        return None


def _bring(s3: S3Client, bucket: str, item: StoredObject, path: Path) -> str:
    where = f"s3://{bucket}/{item.key}"
    part = path.with_name(f".part-{secrets.token_hex(8)}")
    try:
        if _is_unchanged(item, path):
            return _UNCHANGED
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(s3, bucket, item.key, part)
        os.utime(part, (item.modified.timestamp(), item.modified.timestamp()))
        part.replace(path)
    except ClientError as error:
        if error_code(error) in MISSING_CODES:
            return _VANISHED
        raise translate(error, where) from error
    except BotoCoreError as error:
        raise translate(error, where) from error
    except OSError as error:
        if error.errno in _NO_NAME_HERE:
            return _UNFIT
        raise ChronosError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return _FETCHED


def _download(s3: S3Client, bucket: str, key: str, path: Path) -> None:
    from boto3.s3.transfer import TransferConfig
    from s3transfer.exceptions import S3DownloadFailedError

    config = TransferConfig(max_concurrency=PARTS_AT_ONCE)
    for attempt in range(REWRITES):
        with path.open("wb") as file:
            try:
                s3.download_fileobj(bucket, key, file, Config=config)
            except S3DownloadFailedError as error:
                # A living run has rewritten the object between two of its parts.
                if attempt == REWRITES - 1:
                    raise StorageUnreachable(f"s3://{bucket}/{key} keeps changing; fetch it later") from error
                continue
        return


def _is_unchanged(item: StoredObject, path: Path) -> bool:
    """Whether the file is what the bucket holds: by content, or by time for objects sent in parts."""
    if not path.is_file() or path.stat().st_size != item.bytes:
        return False
    if "-" in item.etag:
        return int(path.stat().st_mtime) == int(item.modified.timestamp())
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == item.etag
