"""Upload a run's checkpoints while it trains, so that a machine that is taken away costs little.

usage: python -m chronos_ec2.instance.checkpoint_sync --bucket B --prefix ENV/RUN_ID/ --from DIR [--every S]

Looks at DIR/checkpoints every S seconds and uploads the newest two whole checkpoints that S3 does not have,
the newest first, each with its manifest last. Then older ones are deleted from S3, their manifest first. One
with a file whose name S3 cannot hold is said once and passed over, as without that file it is not whole. What
fails is said and tried again at the next look. Runs until it is ended by a signal; what it has left half done
has no manifest, and so does not count.

Exit: 2 usage.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.checkpoint_files import SAVED, LocalCheckpoint, find_checkpoints, write_note
from chronos_ec2.instance.object_keys import key_flaw, shown
from chronos_ec2.state.stored_checkpoints import FOLDER, KEEP, MANIFEST, StoredCheckpoint, list_stored

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig

LOOK_EVERY_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 30.0
"""How long a checkpoint without a manifest must have been left alone to count as whole."""
_FILES_AT_ONCE: Final = 4
_MANIFEST_TYPE: Final = "application/json"


class CheckpointSync:
    """Brings one run's checkpoints to S3.

    Args:
        client: a boto3 S3 client.
        bucket, prefix: where to; the prefix is `{env}/{run_id}/`.
        output: the run's output folder, in which `checkpoints/` lies.
        log: takes one line of talk.
        now: epoch seconds.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        output: Path,
        *,
        log: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._folder = output / FOLDER
        self._log = log
        self._now = now
        self._said: set[str] = set()

    def run_once(self, settle_seconds: float = SETTLE_SECONDS) -> list[int]:
        """Upload what is new, drop what is old.

        Args:
            settle_seconds: see `SETTLE_SECONDS`; 0 when the trainer has ended and said that it had saved.

        Returns:
            The steps that were uploaded, newest first.

        Raises:
            ChronosError: S3 refused or could not be reached; what was not uploaded is found again.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        from chronos_ec2.instance.storage import explain

        found, problems = find_checkpoints(self._folder, self._now() - settle_seconds)
        for problem in problems:
            self._say_once(problem)
        wanted = [one for one in found if self._fits(one)][:KEEP]
        if not wanted:
            return []
        try:
            return self._bring(wanted)
        except (ClientError, BotoCoreError) as error:
            raise explain(error, "uploading a checkpoint") from error

    def _fits(self, local: LocalCheckpoint) -> bool:
        """Whether S3 can hold all of it: what lacked a file would count as whole there, and be none."""
        for name in local.names:
            if flaw := key_flaw(f"{self._prefix}{FOLDER}/{local.path.name}/{name}"):
                self._say_once(
                    f"{local.path.name} is left out, all of it: {shown(name)} cannot come along, {flaw}"
                )
                return False
        return True

    def _bring(self, wanted: Sequence[LocalCheckpoint]) -> list[int]:
        stored = {one.step: one for one in list_stored(self._client, self._bucket, self._prefix)}
        sent = [one for one in wanted if one.step not in stored and self._upload(one)]
        safe = sorted({*stored, *(one.step for one in sent)}, reverse=True)
        if safe:
            write_note(self._folder, SAVED, step=safe[0])
        for step in safe[KEEP:]:
            if step in stored:
                self._drop(stored[step])
        return [one.step for one in sent]

    def _upload(self, local: LocalCheckpoint) -> bool:
        started = self._now()
        prefix = f"{self._prefix}{FOLDER}/{local.path.name}/"
        try:
            with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                list(pool.map(partial(self._upload_file, local.path, prefix), local.names))
            body = local.described()
        except FileNotFoundError:
            self._log(f"{local.path.name} was dropped by the trainer before it was uploaded")
            return False
        except OSError as error:
            raise ChronosError(f"{local.path.name} cannot be read: {error.strerror or error}") from error
        key = prefix + MANIFEST
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=_MANIFEST_TYPE)
        self._log(f"{local.path.name} is in S3 after {self._now() - started:.1f} s")
        return True

    def _upload_file(self, folder: Path, prefix: str, name: str) -> None:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        extra = {"ChecksumAlgorithm": "SHA256"}
        try:
            self._client.upload_file(
                str(folder / name), self._bucket, prefix + name, ExtraArgs=extra, Config=_transfer()
            )
        except S3UploadFailedError as error:
            # upload_file wraps a ClientError in its own kind
            cause = error.__context__
            raise (
                cause if isinstance(cause, ClientError | BotoCoreError) else ChronosError(f"{name}: {error}")
            ) from None

    def _drop(self, old: StoredCheckpoint) -> None:
        for name in sorted(old.sizes, key=lambda name: name != MANIFEST):
            self._client.delete_object(Bucket=self._bucket, Key=old.prefix + name)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._log(text)


def _transfer() -> TransferConfig:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(max_concurrency=8, multipart_chunksize=16 * 1024 * 1024)


def say(text: str) -> None:
    """One line of talk on stderr."""
    print(f"checkpoint_sync: {text}", file=sys.stderr, flush=True)


def look_again_and_again(
    make_sync: Callable[[], CheckpointSync],
    folder: Path,
    every_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Upload for ever; S3 is not spoken to, nor its library loaded, before there is a checkpoint."""
    sync: CheckpointSync | None = None
    while True:
        sleep(every_seconds)
        if sync is None and not any(folder.glob("checkpoint-*")):
            continue
        try:
            sync = sync or make_sync()
            sync.run_once()
        except (ChronosError, OSError) as error:
            sync = None  # a client that was made while there were no credentials never has any
            say(f"{error}; trying again in {every_seconds:g} s, training goes on")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="checkpoint_sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True, help="ENV/RUN_ID/")
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR")
    parser.add_argument("--every", type=float, default=LOOK_EVERY_SECONDS, metavar="SECONDS")
    given = parser.parse_args(argv)
    if not 0.05 <= given.every <= 3600:
        parser.error("--every: expected 0.05 to 3600 seconds")
    return given


def main(argv: Sequence[str]) -> None:
    """Upload checkpoints until a signal ends the process."""
    given = _parse(argv)

    def make_sync() -> CheckpointSync:
        from chronos_ec2.instance.storage import make_client

        client = make_client(connections=_FILES_AT_ONCE * 8)
        return CheckpointSync(client, given.bucket, given.prefix, given.source, log=say)

    look_again_and_again(make_sync, given.source / FOLDER, given.every)


if __name__ == "__main__":
    main(sys.argv[1:])
