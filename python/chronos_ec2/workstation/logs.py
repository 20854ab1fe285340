"""A run's log from S3, whole or followed, and the machine's console where S3 has none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.report.run_files import mapping
from chronos_ec2.state.clock import utc_now
from chronos_ec2.words import one_line
from chronos_ec2.workstation.log_parts import LogReader
from chronos_ec2.workstation.observer import TRANSIENT, Observer
from chronos_ec2.workstation.outcome import nodes_of
from chronos_ec2.workstation.run_ids import latest_run_id, run_prefix
from chronos_ec2.workstation.s3 import get_json, translate
from chronos_ec2.workstation.sight import Sight

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

SOURCES: Final = ("bootstrap", "cloud-init", "kernel", "trainer")
UNKNOWN_LIMIT: Final = timedelta(minutes=4)


class LineFilter:
    """Writes text through at once, or the whole lines that a pattern matches or that a source has written."""

    def __init__(self, out: TextIO, pattern: re.Pattern[str] | None, source: str | None = None) -> None:
        self._out = out
        self._pattern, self._source = pattern, source
        self._whole_lines = pattern is not None or source is not None
        self._rest = ""
        self._ends_line = True

    def write(self, text: str) -> None:
        """Take the next piece of the log."""
        if not self._whole_lines:
            self._put(text)
            return
        *lines, self._rest = (self._rest + text).split("\n")
        self._put("".join(f"{line}\n" for line in lines if self._wants(line)))

    def close(self) -> None:
        """Write a last line that has no newline."""
        if self._rest and self._wants(self._rest):
            self._put(self._rest)
        self._rest = ""
        if not self._ends_line:
            self._put("\n")

    def _wants(self, line: str) -> bool:
        return (self._source is None or source_of_line(line) == self._source) and (
            self._pattern is None or self._pattern.search(line) is not None
        )

    def _put(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._ends_line = text.endswith("\n")
        self._out.flush()


def source_of_line(line: str) -> str:
    """Who wrote a line of the log: its mark says so; what has none is the bootstrap's."""
    mark, found, _ = line.partition("| ")
    return mark if found and mark in SOURCES else "bootstrap"


def show_logs(
    s3: S3Client,
    ec2: EC2Client,
    bucket: str,
    environment: str,
    *,
    out: TextIO,
    err: TextIO,
    run_id: str | None = None,
    node: int = 0,
    follow: bool = False,
    grep: str | None = None,
    source: str | None = None,
    poll_seconds: float = 2.0,
    heartbeat_seconds: float = 15,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> ExitCode:
    """Print a run's log: the bootstrap's lines and, marked, cloud-init's, the trainer's and the kernel's.

    Args:
        out: where the log goes; err: where everything else is said.
        run_id: which run; None means the active one, else the newest.
        node: which machine's, of a run of several: 0 is the one that leads.
        follow: go on with what is added until the run has ended and the log is complete.
        grep: a regular expression; only lines that match it are printed.
        source: only lines of this one of SOURCES.

    Returns:
        OK; FAILED when neither S3 nor EC2 has anything; INTERRUPTED after ctrl-C.

    Raises:
        NoSuchRun: there is no such run.
        UsageProblem: `grep` is not a regular expression, `source` is no source, or `node` no node's number.
        ChronosError: AWS refused.
    """
    if source is not None and source not in SOURCES:
        raise UsageProblem(f"--source {source!r}: expected one of {', '.join(SOURCES)}")
    if node < 0:
        raise UsageProblem(f"--node {node}: the machines of a run count from 0")
    lines = LineFilter(out, _compiled(grep), source)
    run_id = run_id or latest_run_id(s3, bucket, environment)
    folder = f"{run_prefix(environment, run_id)}logs/{f'node-{node}/' if node else ''}"
    reader = LogReader(s3, bucket, f"{folder}bootstrap.log")
    observer = Observer(
        s3, ec2, bucket, environment, run_id, heartbeat_seconds=heartbeat_seconds, now=now, sleep=sleep
    )
    machine = partial(_machine, s3, bucket, node)
    try:
        if follow:
            _follow(observer, reader, lines, err, poll_seconds, now, sleep, machine)
        else:
            _copy(reader, lines, err)
    except KeyboardInterrupt:
        err.write("-- the run goes on without this window\n")
        return ExitCode.INTERRUPTED
    if reader.found:
        lines.close()
        return ExitCode.OK
    sight = observer.look()
    return _console(ec2, sight, machine(sight), lines, err)


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
    machine: Callable[[Sight], str | None],
) -> None:
    """Copy what is new until the run is over; what hinders is told once and sat out."""
    unclear_since: datetime | None = None
    told = ""
    while True:
        try:
            # The end is looked at before the log is read: a run drops its state after its last upload.
            sight = observer.look()
            _copy(reader, lines, err)
            if not reader.found:
                machine(sight)  # refuses one that the run has not, whose log would never come
        except TRANSIENT as error:
            trouble, unclear, over = f"{error}; trying again", True, False
        else:
            unclear, over = sight.word == "unknown", sight.outcome is not None
            trouble = "" if reader.found else "no log in S3 yet; waiting for its first upload"
            trouble = (
                f"{one_line(str(sight.detail))}; waiting for the end to become clear" if unclear else trouble
            )
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


def _machine(s3: S3Client, bucket: str, node: int, sight: Sight) -> str | None:
    """The instance of one of a run's nodes.

    Raises:
        UsageProblem: the run has no such node.
    """
    if node == 0:
        return sight.instance_id
    record = get_json(s3, bucket, f"{run_prefix(sight.environment, str(sight.run_id))}run.json") or {}
    ids = mapping(record.get("instance")).get("ids")
    ids = ids if isinstance(ids, list) else []
    nodes = max(len(ids), nodes_of(None, record))  # told before the first of them is asked for
    if node >= nodes:
        raise UsageProblem(f"--node {node}: the last machine of run {sight.run_id} is {nodes - 1}")
    return one_line(str(ids[node])) if node < len(ids) else None


def _console(
    ec2: EC2Client, sight: Sight, instance_id: str | None, lines: LineFilter, err: TextIO
) -> ExitCode:
    """EC2's record of the machine's console, for a run that never uploaded a log."""
    if instance_id is None:
        err.write(f"run {sight.run_id} has no log in S3, and no instance is known ({sight.word})\n")
        return ExitCode.FAILED
    try:
        text = ec2.get_console_output(InstanceId=instance_id).get("Output", "")
    except (ClientError, BotoCoreError) as error:
        err.write(f"run {sight.run_id} has no log in S3; {translate(error, instance_id)}\n")
        return ExitCode.FAILED
    if not text:
        err.write(f"run {sight.run_id} has no log in S3, and {instance_id} no console output yet\n")
        return ExitCode.FAILED
    err.write(f"-- no log in S3; this is what EC2 kept of the console of {instance_id}\n")
    lines.write(text)
    lines.close()
    return ExitCode.OK
