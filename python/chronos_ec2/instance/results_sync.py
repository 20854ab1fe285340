"""Upload a run's results, checked, in parallel, `training.json` last.

usage: python -m chronos_ec2.instance.results_sync --bucket B --prefix ENV/RUN_ID/ --from DIR [--threads N]

First come the newest two checkpoints that are whole and not in S3 yet (see checkpoint_sync): they are what a
run goes on from, and the machine may have seconds left. Then everything else below DIR is uploaded under the
same relative name, except temporary files (`.tmp*`) and symbolic links. S3 checks the SHA-256 of what it
receives; afterwards each object's size is compared. A file that fails does not keep the others back; one
whose name S3 cannot hold is named and left out, and is no failure. Talk goes to stderr.

Exit: 0 all uploaded that can be; 1 at least one file failed (all are named); 2 usage; 15 S3 refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError, StorageDenied
from chronos_ec2.instance.checkpoint_files import REQUEST
from chronos_ec2.instance.checkpoint_sync import SETTLE_SECONDS, CheckpointSync
from chronos_ec2.instance.object_keys import key_flaw, shown
from chronos_ec2.instance.storage import explain, make_client
from chronos_ec2.instance.verdict import INTERRUPTED_EXIT
from chronos_ec2.state.stored_checkpoints import FOLDER, NAME

THREADS: Final = 8
LAST: Final = "training.json"
_ATTEMPTS: Final = 3
# The bucket's lifecycle rules tell these objects by tag, because a run's id stands in front of their names.
_LIFECYCLE_TAGS: Final = {"logs": "chronos-class=log", "models": "chronos-class=model"}
_TRANSFER: Final = TransferConfig(max_concurrency=4)


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What an upload did.

    Attributes:
        failures: what went wrong, per file.
        denied: whether S3 refused one.
        left_out: per file whose name S3 cannot hold, why.
    """

    files: int
    bytes: int
    seconds: float
    failures: tuple[str, ...]
    denied: bool
    left_out: tuple[str, ...]


def choose_files(source: Path) -> list[PurePosixPath]:
    """The results below a folder, as relative names, `training.json` last; checkpoints are left out."""
    chosen = []
    for path in sorted(source.rglob("*")):
        name = PurePosixPath(path.relative_to(source))
        if path.is_symlink() or not path.is_file():
            continue
        if any(part.startswith(".tmp") for part in name.parts) or name.name == REQUEST:
            continue
        if name.parts[0] == FOLDER and len(name.parts) > 2 and NAME.fullmatch(name.parts[1]):
            continue
        chosen.append(name)
    return sorted(chosen, key=lambda name: (str(name) == LAST, name))


_KILLED_EXIT: Final = 137
"""128 + SIGKILL: it may have been writing."""


def settle_seconds(source: Path) -> float:
    """How long a checkpoint without a manifest must have been left alone to be uploaded.

    0 when `training.json` says that the trainer ended at its own wish, and so not in the middle of a save:
    with 0 or 75, or with any other status after it was asked to end (torchrun's is 1), unless it was killed.
    """
    try:
        told = json.loads((source / LAST).read_text(encoding="utf-8"))
        code, asked = told["exit_code"], told.get("status") == "interrupted"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return SETTLE_SECONDS
    itself = code in (0, INTERRUPTED_EXIT) or (asked and isinstance(code, int) and code != _KILLED_EXIT)
    return 0.0 if itself else SETTLE_SECONDS


def upload_checkpoints(
    checkpoints: CheckpointSync, source: Path, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Bring the checkpoints that are not in S3 yet, and try as often as for a file.

    Args:
        source: the output folder.
        sleep: seconds between two tries.

    Raises:
        ChronosError: not all of them came.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            checkpoints.run_once(settle_seconds(source))
        except StorageDenied:
            raise
        except ChronosError as error:
            if attempt == _ATTEMPTS:
                raise
            _say(f"{error}; trying again")
            sleep(2.0**attempt)
        else:
            return


class ResultsSync:
    """Uploads one folder under one prefix.

    Args:
        client: a boto3 S3 client.
        bucket, prefix: where to; the prefix ends in a slash.
        source: the output folder.
        sleep: seconds between two tries of a file.
    """

    def __init__(
        self, client: Any, bucket: str, prefix: str, source: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._source = source
        self._sleep = sleep

    def run(self, threads: int = THREADS) -> UploadReport:
        """Upload everything; what fails is in the report."""
        started = time.monotonic()
        names, left_out = [], []
        for name in choose_files(self._source):
            if flaw := key_flaw(f"{self._prefix}{name}"):
                left_out.append(f"{shown(str(name))} is left out: {flaw}")
            else:
                names.append(name)
        first = [name for name in names if str(name) != LAST]
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(self._upload_or_explain, first))
        results += [self._upload_or_explain(name) for name in names[len(first) :]]
        sizes = [result for result in results if isinstance(result, int)]
        errors = [result for result in results if isinstance(result, ChronosError)]
        return UploadReport(
            files=len(sizes),
            bytes=sum(sizes),
            seconds=time.monotonic() - started,
            failures=tuple(str(error) for error in errors),
            denied=any(isinstance(error, StorageDenied) for error in errors),
            left_out=tuple(left_out),
        )

    def _upload_or_explain(self, name: PurePosixPath) -> int | ChronosError:
        what = shown(str(name))
        problem: ChronosError = ChronosError(f"{what}: not tried")
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._sleep(0.5 * 2.0**attempt)
            try:
                return self._upload(name)
            except (ClientError, BotoCoreError) as error:
                problem = explain(error, f"uploading {what}")
            except Boto3Error as error:
                # upload_file wraps a ClientError in its own kind
                cause = error.__context__
                if isinstance(cause, ClientError | BotoCoreError):
                    problem = explain(cause, f"uploading {what}")
                else:
                    problem = ChronosError(f"uploading {what} failed: {error}")
            except OSError as error:
                problem = ChronosError(f"reading {what} failed: {error.strerror or error}")
            except ChronosError as error:
                problem = error
            if isinstance(problem, StorageDenied):
                break
        return problem

    def _upload(self, name: PurePosixPath) -> int:
        path, key = self._source / name, f"{self._prefix}{name}"
        size = path.stat().st_size
        extra = {"ChecksumAlgorithm": "SHA256"}
        if name.parts[0] in _LIFECYCLE_TAGS:
            extra["Tagging"] = _LIFECYCLE_TAGS[name.parts[0]]
        self._client.upload_file(str(path), self._bucket, key, ExtraArgs=extra, Config=_TRANSFER)
        stored = int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        if stored != size:
            raise ChronosError(
                f"{shown(str(name))}: {stored} bytes arrived of {size}; is something still writing to it?"
            )
        return size


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="results_sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True, help="ENV/RUN_ID/")
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    given = parser.parse_args(argv)
    given.prefix = given.prefix.strip("/") + "/"
    if given.prefix == "/":
        parser.error("--prefix: the bucket's root is no place for a run's results")
    if not 1 <= given.threads <= 64:
        parser.error("--threads: expected 1 to 64")
    if not given.source.is_dir():
        parser.error(f"--from: {given.source} is not a folder")
    return given


def main(argv: Sequence[str]) -> int:
    """Upload what `argv` describes and return the exit status."""
    given = _parse(argv)
    problems: list[ChronosError] = []
    try:
        client = make_client(connections=given.threads * 4)
        try:
            upload_checkpoints(
                CheckpointSync(client, given.bucket, given.prefix, given.source, log=_say), given.source
            )
        except ChronosError as error:
            problems.append(error)
        report = ResultsSync(client, given.bucket, given.prefix, given.source).run(given.threads)
    except (BotoCoreError, OSError) as error:
        _say(str(error))
        return 1
    failures = (*map(str, problems), *report.failures)
    for line in (*report.left_out, *failures):
        _say(line)
    _say(
        f"{report.files} files, {report.bytes} bytes in {report.seconds:.2f} s to "
        f"s3://{given.bucket}/{given.prefix}" + (f"; {len(failures)} uploads FAILED" if failures else "")
    )
    if report.denied or any(isinstance(problem, StorageDenied) for problem in problems):
        return StorageDenied.exit_code
    return 1 if failures else 0


def _say(text: str) -> None:
    print(f"results_sync: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
