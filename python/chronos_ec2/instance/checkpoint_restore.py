"""Fetch the newest checkpoint of another run that verifies, for a run that goes on from it.

usage: python -m chronos_ec2.instance.checkpoint_restore --bucket B --prefix ENV/RUN_ID/ --into DIR

DIR is the new run's `checkpoints` folder. Size and sha256 of every file are held against the manifest; one
that does not match (half uploaded, damaged) is passed over for the one before. The step is printed on stdout.

Exit: 0 fetched; 1 there is none that verifies; 2 usage; 15 S3 refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.checkpoint_files import RESTORED, write_note
from chronos_ec2.instance.storage import MISSING, error_code, explain, make_client
from chronos_ec2.instance.training_record import file_facts
from chronos_ec2.state.stored_checkpoints import (
    MANIFEST,
    Manifest,
    StoredCheckpoint,
    list_stored,
    read_manifest,
)

_FILES_AT_ONCE: Final = 4


def restore(client: Any, bucket: str, prefix: str, into: Path, *, log: Callable[[str], None]) -> int:
    """Fetch the newest checkpoint that verifies.

    Args:
        client: a boto3 S3 client.
        prefix: `{env}/{run_id}/` of the run to go on from.
        into: the checkpoints folder of the run that begins.

    Returns:
        Its step.

    Raises:
        ChronosError: there is none that verifies, S3 cannot be reached, or the disk is full.
        StorageDenied: S3 refused.
    """
    try:
        for stored in list_stored(client, bucket, prefix):
            try:
                _fetch(client, bucket, stored, into)
            except ValueError as problem:
                log(f"checkpoint-{stored.step} is not whole and was passed over: {problem}")
                continue
            write_note(into, RESTORED, run_id=prefix.rstrip("/").rpartition("/")[2], step=stored.step)
            return stored.step
    except (ClientError, BotoCoreError) as error:
        raise explain(error, f"fetching a checkpoint from s3://{bucket}/{prefix}") from error
    except OSError as error:
        raise ChronosError(f"a checkpoint cannot be written to {into}: {error.strerror or error}") from error
    raise ChronosError(f"s3://{bucket}/{prefix} has no checkpoint that verifies")


def _fetch(client: Any, bucket: str, stored: StoredCheckpoint, into: Path) -> None:
    manifest = read_manifest(client, bucket, stored)
    draft = into / f".tmp-checkpoint-{stored.step}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(partial(_fetch_file, client, bucket, stored, manifest, draft), manifest.files))
    (draft / MANIFEST).write_bytes(manifest.body)
    draft.replace(into / f"checkpoint-{stored.step}")


def _fetch_file(
    client: Any, bucket: str, stored: StoredCheckpoint, manifest: Manifest, draft: Path, name: str
) -> None:
    path, fact = draft / name, manifest.files[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.download_file(bucket, stored.prefix + name, str(path))
    except ClientError as error:
        if error_code(error) in MISSING:
            raise ValueError(f"{name} is gone") from None
        raise
    found = file_facts(path)
    if found != {"bytes": fact.bytes, "sha256": fact.sha256}:
        raise ValueError(f"{name} is not what its manifest says")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="checkpoint_restore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True, help="ENV/RUN_ID/ of the run to go on from")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Fetch what `argv` describes and return the exit status."""
    given = _parse(argv)

    def say(text: str) -> None:
        print(f"checkpoint_restore: {text}", file=sys.stderr, flush=True)

    try:
        client = make_client(connections=_FILES_AT_ONCE * 10)
        step = restore(client, given.bucket, given.prefix.strip("/") + "/", given.into, log=say)
    except ChronosError as error:
        say(str(error))
        return int(error.exit_code)
    say(f"checkpoint-{step} of s3://{given.bucket}/{given.prefix} is fetched and verified")
    print(step)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
