"""A run's log from S3, whole or followed, and the machine's console where S3 has none."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation.observer import TRANSIENT, Observer
from chronos_ec2.workstation.run_ids import latest_run_id, run_prefix
from chronos_ec2.workstation.s3 import get_bytes, head, translate
from chronos_ec2.workstation.sight import Sight

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES: Final = 4 << 20
UNKNOWN_LIMIT: Final = timedelta(minutes=4)


class LogReader:
    """The new bytes of a log object that is written whole again and again, and only grows."""

    def __init__(self, s3: S3Client, bucket: str, key: str) -> None:
        self._s3, self._bucket, self._key = s3, bucket, key
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.offset = 0
        self.found = False
        self.restarted = False

    def new_text(self) -> Iterator[str]:
        """What was added since the last call, in pieces; from the start again if the object shrank."""
        headers = head(self._s3, self._bucket, self._key)
        if headers is None:
            return
        self.found = True
        self.restarted = int(headers["ContentLength"]) < self.offset
        if self.restarted:
            self.offset = 0
            self._decoder.reset()
        while self.offset < int(headers["ContentLength"]):
            wanted = f"bytes={self.offset}-{self.offset + CHUNK_BYTES - 1}"
            piece = get_bytes(self._s3, self._bucket, self._key, byte_range=wanted)
            if piece is None or not piece[0]:
                return
            self.offset += len(piece[0])
            yield self._decoder.decode(piece[0])


class LineFilter:
    """Writes text through at once, or, with a pattern, the whole lines that match it."""

    def __init__(self, out: TextIO, pattern: re.Pattern[str] | None) -> None:
        self._out = out
        self._pattern = pattern
        self._rest = ""
        self._ends_line = True

    def write(self, text: str) -> None:
        """Take the next piece of the log."""
        if self._pattern is None:
            self._put(text)
            return
        *lines, self._rest = (self._rest + text).split("\n")
        self._put("".join(f"{line}\n" for line in lines if self._pattern.search(line)))

    def close(self) -> None:
        """Write a last line that has no newline."""
        if self._pattern is not None and self._rest and self._pattern.search(self._rest):
            self._put(self._rest)
        self._rest = ""
        if not self._ends_line:
            self._put("\n")

    def _put(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._ends_line = text.endswith("\n")
        self._out.flush()


def show_logs(
    s3: S3Client,
    ec2: EC2Client,
    bucket: str,
    environment: str,
    *,
    out: TextIO,
    err: TextIO,
    run_id: str | None = None,
    follow: bool = False,
    grep: str | None = None,
    poll_seconds: float = 2.0,
    heartbeat_seconds: float = 15,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> ExitCode:
    """Print a run's bootstrap.log, which holds the trainer's output too.

    Args:
        out: where the log goes; err: where everything else is said.
        run_id: which run; None means the active one, else the newest.
        follow: go on with what is added until the run has ended and the log is complete.
        grep: a regular expression; only lines that match it are printed.

    Returns:
        OK; FAILED when neither S3 nor EC2 has anything; INTERRUPTED after ctrl-C.

    Raises:
        NoSuchRun: there is no such run.
        UsageProblem: `grep` is not a regular expression.
        ChronosError: AWS refused.
    """
    lines = LineFilter(out, _compiled(grep))
    run_id = run_id or latest_run_id(s3, bucket, environment)
    reader = LogReader(s3, bucket, f"{run_prefix(environment, run_id)}logs/bootstrap.log")
    observer = Observer(
        s3, ec2, bucket, environment, run_id, heartbeat_seconds=heartbeat_seconds, now=now, sleep=sleep
    )
    try:
        if follow:
            _follow(observer, reader, lines, err, poll_seconds, now, sleep)
        else:
            _copy(reader, lines, err)
    except KeyboardInterrupt:
        err.write("-- the run goes on without this window\n")
        return ExitCode.INTERRUPTED
    if reader.found:
        lines.close()
        return ExitCode.OK
    return _console(ec2, observer.look(), lines, err)


def _compiled(grep: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(grep) if grep is not None else None
    except re.error as error:
        raise UsageProblem(f"--grep {grep!r} is not a regular expression: {error}") from error


def _copy(reader: LogReader, lines: LineFilter, err: TextIO) -> None:
    for text in reader.new_text():
        if reader.restarted:
            err.write("-- the log has become shorter; from its start again\n")
            reader.restarted = False
        lines.write(text)


def _follow(
    observer: Observer,
    reader: LogReader,
    lines: LineFilter,
    err: TextIO,
    poll_seconds: float,
    now: Callable[[], datetime],
    sleep: Callable[[float], None],
) -> None:
    """Copy what is new until the run is over; what hinders is told once and sat out."""
    unclear_since: datetime | None = None
    told = ""
    while True:
        try:
            # The end is looked at before the log is read: a run drops its state after its last upload.
            sight = observer.look()
            _copy(reader, lines, err)
        except TRANSIENT as error:
            trouble, unclear, over = f"{error}; trying again", True, False
        else:
            unclear, over = sight.word == "unknown", sight.outcome is not None
            trouble = "" if reader.found else "no log in S3 yet; waiting for its first upload"
            trouble = f"{sight.detail}; waiting for the end to become clear" if unclear else trouble
        if trouble and trouble != told and not over:
            err.write(f"-- {trouble}\n")
            err.flush()
        told = trouble
        unclear_since = (unclear_since or now()) if unclear else None
        if unclear_since is not None and now() - unclear_since > UNKNOWN_LIMIT:
            err.write("-- giving up: nothing says whether the run goes on\n")
            return
        if over:
            return
        sleep(poll_seconds)


def _console(ec2: EC2Client, sight: Sight, lines: LineFilter, err: TextIO) -> ExitCode:
    """EC2's record of the machine's console, for a run that never uploaded a log."""
    if sight.instance_id is None:
        err.write(f"run {sight.run_id} has no log in S3, and no instance is known ({sight.word})\n")
        return ExitCode.FAILED
    try:
        text = ec2.get_console_output(InstanceId=sight.instance_id).get("Output", "")
    except (ClientError, BotoCoreError) as error:
        err.write(f"run {sight.run_id} has no log in S3; {translate(error, sight.instance_id)}\n")
        return ExitCode.FAILED
    if not text:
        err.write(f"run {sight.run_id} has no log in S3, and {sight.instance_id} no console output yet\n")
        return ExitCode.FAILED
    err.write(f"-- no log in S3; this is what EC2 kept of the console of {sight.instance_id}\n")
    lines.write(text)
    lines.close()
    return ExitCode.OK
