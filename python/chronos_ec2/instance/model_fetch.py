"""Fetch the model that a training starts from, and check it.

usage: python -m chronos_ec2.instance.model_fetch --model-id s3://BUCKET/PREFIX --into DIR

Only config.json and model.safetensors are fetched, into a new folder beside DIR that takes DIR's name once it
is checked; what DIR held is replaced. Below the prefix that `invoke upload --model` gave, which is made of
their digests, they must be what was uploaded. Talk goes to stderr.

Exit: 0 fetched; 1 failed; 2 usage; 15 S3 refused; 18 it is not there, or not what was uploaded; 26 it is
none, or not in safetensors.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError, NotUploaded
from chronos_ec2.instance.storage import MISSING, error_code, explain, make_client
from chronos_ec2.instance.trainers.files import sha256_of
from chronos_ec2.start_model import (
    MODEL_FILES,
    content_name,
    in_s3,
    promised_name,
    read_model_config,
    split_uri,
)


def fetch_model(client: Any, model_id: str, into: Path) -> int:
    """Fetch a model.

    Args:
        client: a boto3 S3 client.
        model_id: `s3://bucket/prefix`.
        into: the folder; replaced when it is there.

    Returns:
        The bytes fetched.

    Raises:
        NotUploaded: a file is not there, or not what `invoke upload --model` sent.
        SettingsError: it is no Chronos-2 model in safetensors.
        StorageDenied: S3 refused.
        ChronosError: it could not be fetched or written.
    """
    bucket, prefix = split_uri(model_id)
    draft = into.with_name(f".tmp-{into.name}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name in MODEL_FILES:
            _fetch(client, bucket, prefix + name, draft / name)
        _refuse_altered(draft, prefix, model_id)
        read_model_config(draft)
        size = sum(path.stat().st_size for path in draft.iterdir())
        shutil.rmtree(into, ignore_errors=True)
        draft.replace(into)
    except OSError as error:
        raise ChronosError(
            f"the start model cannot be written to {into}: {error.strerror or error}"
        ) from error
    return size


def _refuse_altered(folder: Path, prefix: str, model_id: str) -> None:
    promised = promised_name(prefix)
    if promised and content_name([sha256_of(folder / name) for name in MODEL_FILES]) != promised:
        raise NotUploaded(
            f"{model_id} is not the model that was uploaded: it was altered in the bucket; "
            "send it again with invoke upload --model DIR"
        )


def _fetch(client: Any, bucket: str, key: str, path: Path) -> None:
    uri = f"s3://{bucket}/{key}"
    try:
        client.download_file(bucket, key, str(path))
    except (ClientError, BotoCoreError) as error:
        if error_code(error) in MISSING:
            raise NotUploaded(
                f"{uri} is not there: send a model in safetensors with invoke upload --model DIR"
            ) from error
        raise explain(error, f"fetching {uri}") from error
    except Boto3Error as error:
        raise ChronosError(f"fetching {uri} failed: {error}") from error


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="model_fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-id", required=True, metavar="URI")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    given = parser.parse_args(argv)
    if not in_s3(given.model_id):
        parser.error(f"--model-id: expected s3://BUCKET/PREFIX, not {given.model_id!r}")
    return given


def main(argv: Sequence[str]) -> int:
    """Fetch what `argv` describes and return the exit status."""
    given = _parse(argv)
    try:
        size = fetch_model(make_client(), given.model_id, given.into)
    except ChronosError as error:
        print(f"model_fetch: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(f"model_fetch: {given.model_id} is fetched and checked, {size} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
