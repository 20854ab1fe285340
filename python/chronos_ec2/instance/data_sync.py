"""Fetch the training data that the bucket's manifest names, and check every byte of it.

usage: python -m chronos_ec2.instance.data_sync --bucket B --into DIR
           [--prefix cached-datasets/training-data/] [--manifest-sha256 HEX] [--threads N]

Only files named in MANIFEST.json count. Each is downloaded under a temporary name, compared with the
manifest's size and sha256, and renamed; a file that is already right is not fetched again. The manifest
itself comes last into DIR. --manifest-sha256 pins the data set that the launch saw. Talk goes to stderr.

Exit: 0 all there; 1 failed; 2 usage; 15 S3 refused; 18 not uploaded; 19 the data is not what it should be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError, DataInvalid, NotUploaded
from chronos_ec2.instance.storage import MISSING, error_code, explain, make_client

MANIFEST: Final = "MANIFEST.json"
DEFAULT_PREFIX: Final = "cached-datasets/training-data/"
THREADS: Final = 8
_ATTEMPTS: Final = 3
_FILE_NAME: Final = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TRANSFER: Final = TransferConfig(max_concurrency=4)


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of the data set, as the manifest names it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did: files in the data set, how many were fetched, their bytes, how long it took."""

    files: int
    fetched: int
    fetched_bytes: int
    seconds: float


def read_manifest(client: Any, bucket: str, prefix: str, pinned_sha256: str | None) -> bytes:
    """The manifest's bytes.

    Raises:
        NotUploaded: there is none.
        DataInvalid: it is not the one that was pinned.
    """
    uri = f"s3://{bucket}/{prefix}{MANIFEST}"
    try:
        body: bytes = client.get_object(Bucket=bucket, Key=prefix + MANIFEST)["Body"].read()
    except (ClientError, BotoCoreError) as error:
        if error_code(error) in MISSING:
            raise NotUploaded(
                f"{uri} is not there: run invoke upload, which uploads the training data"
            ) from error
        raise explain(error, f"reading {uri}") from error
    found = hashlib.sha256(body).hexdigest()
    if pinned_sha256 is not None and found != pinned_sha256:
        raise DataInvalid(
            f"{uri} is not the data set that was launched with: sha256 {found}, expected {pinned_sha256}; "
            "somebody uploaded other data meanwhile, launch again"
        )
    return body


def parse_manifest(body: bytes) -> list[DataFile]:
    """The files that a manifest names.

    Raises:
        DataInvalid: it is not JSON, names no file, or a file's entry is off.
    """
    again = "run invoke upload again"
    try:
        entries = json.loads(body)["files"]
        files = [DataFile(entry["name"], entry["bytes"], entry["sha256"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataInvalid(
            f"{MANIFEST} is not a manifest ({type(error).__name__}: {error}); {again}"
        ) from error
    if not files:
        raise DataInvalid(f"{MANIFEST} names no file; {again}")
    for file in files:
        if not isinstance(file.name, str) or not _FILE_NAME.fullmatch(file.name):
            raise DataInvalid(f"{MANIFEST}: {file.name!r} is no plain file name; {again}")
        if not isinstance(file.bytes, int) or not isinstance(file.sha256, str):
            raise DataInvalid(f"{MANIFEST}: {file.name}: bytes or sha256 is of the wrong type; {again}")
        if not _SHA256.fullmatch(file.sha256):
            raise DataInvalid(f"{MANIFEST}: {file.name}: sha256 is not 64 hexadecimal digits; {again}")
    if len({file.name for file in files}) < len(files):
        raise DataInvalid(f"{MANIFEST} names a file twice; {again}")
    return files


def difference(path: Path, expected: DataFile) -> str | None:
    """How a file differs from what it should be; None when it does not."""
    size = path.stat().st_size
    if size != expected.bytes:
        return f"{size} bytes, expected {expected.bytes}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == expected.sha256 else f"sha256 {found}, expected {expected.sha256}"


class DataSync:
    """Brings one data set into one folder.

    Args:
        client: a boto3 S3 client.
        bucket, prefix: where the manifest and the files lie.
        into: the folder; made when it is not there.
        sleep: seconds between two tries of a file.
    """

    def __init__(
        self, client: Any, bucket: str, prefix: str, into: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._into = into
        self._sleep = sleep

    def run(self, pinned_sha256: str | None = None, threads: int = THREADS) -> SyncReport:
        """Fetch what is missing or wrong.

        Raises:
            NotUploaded: there is no manifest.
            DataInvalid: the manifest is off, the folder holds foreign Parquet files, or files differ.
            ChronosError: files could not be fetched; all of them are named.
        """
        started = time.monotonic()
        body = read_manifest(self._client, self._bucket, self._prefix, pinned_sha256)
        files = parse_manifest(body)
        self._into.mkdir(parents=True, exist_ok=True)
        self._refuse_foreign_files(files)
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(self._fetch_or_explain, files))
        failures = [result for result in results if isinstance(result, ChronosError)]
        if failures:
            raise type(failures[0])("; ".join(str(failure) for failure in failures))
        temporary = self._into / f".tmp-{MANIFEST}"
        temporary.write_bytes(body)
        temporary.replace(self._into / MANIFEST)
        fetched = [file for file, result in zip(files, results, strict=True) if result is True]
        total = sum(file.bytes for file in fetched)
        return SyncReport(len(files), len(fetched), total, time.monotonic() - started)

    def _refuse_foreign_files(self, files: Sequence[DataFile]) -> None:
        named = {file.name for file in files}
        found = {path.name for path in self._into.glob("*.parquet") if not path.name.startswith(".")}
        foreign = sorted(found - named)
        if foreign:
            raise DataInvalid(
                f"{self._into} holds files that {MANIFEST} does not name, and a trainer would read them too: "
                f"{', '.join(foreign)}; remove them"
            )

    def _fetch_or_explain(self, file: DataFile) -> bool | ChronosError:
        uri = f"s3://{self._bucket}/{self._prefix}{file.name}"
        try:
            return self._fetch(file, uri)
        except ChronosError as error:
            return error
        except (ClientError, BotoCoreError) as error:
            if error_code(error) in MISSING:
                return NotUploaded(f"{uri} is in {MANIFEST} and not in the bucket: run invoke upload")
            return explain(error, f"fetching {uri}")
        except (Boto3Error, OSError) as error:
            return ChronosError(f"fetching {uri} into {self._into} failed: {error}")

    def _fetch(self, file: DataFile, uri: str) -> bool:
        target = self._into / file.name
        if target.is_file() and difference(target, file) is None:
            return False
        temporary = self._into / f".tmp-{file.name}"
        wrong: str | None = None
        try:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    self._sleep(0.5 * 2.0**attempt)
                self._client.download_file(
                    self._bucket, self._prefix + file.name, str(temporary), Config=_TRANSFER
                )
                wrong = difference(temporary, file)
                if wrong is None:
                    temporary.replace(target)
                    return True
        finally:
            temporary.unlink(missing_ok=True)
        raise DataInvalid(f"{uri} is not what {MANIFEST} says: {wrong}; run invoke upload again")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="data_sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", default=DEFAULT_PREFIX)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    parser.add_argument("--manifest-sha256", metavar="HEX", help="refuse any other manifest")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    given = parser.parse_args(argv)
    if given.manifest_sha256 is not None and not _SHA256.fullmatch(given.manifest_sha256):
        parser.error("--manifest-sha256: expected 64 lower-case hexadecimal digits")
    if not 1 <= given.threads <= 64:
        parser.error("--threads: expected 1 to 64")
    given.prefix = given.prefix.strip("/") + "/"
    return given


def main(argv: Sequence[str]) -> int:
    """Run the sync that `argv` describes and return the exit status."""
    given = _parse(argv)
    try:
        client = make_client(connections=given.threads * 4)
        report = DataSync(client, given.bucket, given.prefix, given.into).run(
            given.manifest_sha256, given.threads
        )
    except ChronosError as error:
        print(f"data_sync: {error}", file=sys.stderr)
        return error.exit_code
    except (BotoCoreError, OSError) as error:
        print(f"data_sync: {error}", file=sys.stderr)
        return 1
    print(
        f"data_sync: {report.files} files in {given.into}, {report.fetched} fetched, "
        f"{report.fetched_bytes} bytes in {report.seconds:.2f} s",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
