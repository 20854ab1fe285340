"""Send a Chronos-2 model to the bucket, for trainings that start from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chronos_ec2.errors import SettingsError
from chronos_ec2.start_model import (
    CONFIG,
    MODEL_FILES,
    MODELS_PREFIX,
    WEIGHTS,
    content_name,
    read_model_config,
)
from chronos_ec2.workstation.transfer import look, send_all
from chronos_ec2.workstation.upload_progress import Progress

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def upload_model(s3: S3Client, bucket: str, folder: Path, *, progress: Progress | None = None) -> str:
    """Check a model's folder and send it, to a name made of its content.

    Args:
        folder: with config.json and model.safetensors, as `save_pretrained` writes them.
        progress: hears how it goes on.

    Returns:
        Its `model_id`, an S3 URI.

    Raises:
        SettingsError: the folder holds no Chronos-2 model in safetensors; nothing was sent.
        NotUploaded: a file changed meanwhile.
        StorageDenied: S3 refused.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not a folder; --model takes one with {CONFIG} and {WEIGHTS}")
    read_model_config(folder)
    files = [look(name, folder / name) for name in MODEL_FILES]
    prefix = f"{MODELS_PREFIX}{content_name([file.sha256 for file in files])}/"
    # The config comes last: a prefix without it is an upload that broke off, and no launch takes it.
    for file in reversed(files):
        send_all(s3, bucket, prefix, [file], progress)
    return f"s3://{bucket}/{prefix}"
