"""Follow a run from the laptop to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TextIO

from chronos_ec2.errors import ChronosError, StateUnreadable
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now
from chronos_ec2.words import span_text
from chronos_ec2.workstation.observer import TRANSIENT, Observer
from chronos_ec2.workstation.sight import Sight
from chronos_ec2.workstation.watch_view import View, make_view

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

OUTCOME_CODES: Final[Mapping[str, ExitCode]] = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.RUN_FAILED,
    "killed": ExitCode.RUN_KILLED,
    "lost": ExitCode.RUN_LOST,
    "interrupted": ExitCode.RUN_INTERRUPTED,
    "launch_failed": ExitCode.LAUNCH_REFUSED,
}
UNKNOWN_LIMIT: Final = timedelta(minutes=4)
OUTAGE_LIMIT: Final = timedelta(minutes=10)
SLEPT_SECONDS: Final = 60


def watch(
    s3: S3Client,
    ec2: EC2Client,
    bucket: str,
    environment: str,
    *,
    out: TextIO,
    run_id: str | None = None,
    follow: bool = True,
    as_json: bool = False,
    poll_seconds: float = 2.0,
    heartbeat_seconds: float = 15,
    saw: Callable[[Sight], None] | None = None,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> ExitCode:
    """Show a run, once or until its end.

    Args:
        out: where to show it: the whole screen of a terminal, else a line a change.
        run_id: which run; None means the active one, or the last one when none is active.
        as_json: one JSON object a change (with `follow=False` exactly one).
        heartbeat_seconds: how often a healthy run writes its state.
        saw: gets every sight after it was shown.

    Returns:
        The run's own exit code once it has ended; OK while it runs or when none is active;
        STATE_UNREADABLE for a corrupt state file; INTERRUPTED after ctrl-C.

    Raises:
        NoSuchRun: there is no trace of that run.
        ChronosError: AWS refused, could not be reached at the first look or later for `OUTAGE_LIMIT`, or
            nothing says for `UNKNOWN_LIMIT` what became of the run.
    """
    observer = Observer(
        s3, ec2, bucket, environment, run_id, heartbeat_seconds=heartbeat_seconds, now=now, sleep=sleep
    )
    with make_view(out, as_json=as_json, follow=follow, now=now) as view:
        try:
            sight = _show(observer, view, saw)
            if follow:
                sight = _follow(observer, view, saw, sight, poll_seconds, now, sleep)
        except StateUnreadable as error:
            view.show(Sight(environment, run_id, "corrupt", now(), detail=str(error)))
            return ExitCode.STATE_UNREADABLE
        except KeyboardInterrupt:
            view.leave(
                f"the run goes on without this window; see it again with invoke watch --env {environment}, "
                f"end it with invoke kill --env {environment}"
            )
            return ExitCode.INTERRUPTED
    if sight.word == "idle" or sight.outcome is None:
        return ExitCode.OK
    return OUTCOME_CODES.get(sight.outcome, ExitCode.FAILED)


def _show(observer: Observer, view: View, saw: Callable[[Sight], None] | None) -> Sight:
    sight = observer.look()
    if sight.word != "idle":
        sight = replace(sight, log_tail=observer.log_tail())
        sight = replace(sight, progress=observer.progress(sight))
    view.note(None)
    view.show(sight)
    if saw is not None:
        saw(sight)
    return sight


def _follow(
    observer: Observer,
    view: View,
    saw: Callable[[Sight], None] | None,
    sight: Sight,
    poll_seconds: float,
    now: Callable[[], datetime],
    sleep: Callable[[float], None],
) -> Sight:
    """Look again until the run has ended; short outages are told and sat out."""
    out_since: datetime | None = None
    unknown_since: datetime | None = None
    while sight.outcome is None and sight.word != "idle":
        before = now()
        sleep(poll_seconds)
        if (now() - before).total_seconds() > poll_seconds + SLEPT_SECONDS:
            # This machine slept: nobody was there to wait, and its network may need a moment.
            out_since, unknown_since = None, None
        try:
            sight = _show(observer, view, saw)
        except TRANSIENT as error:
            if out_since is None:
                view.note(f"{error}; trying again, the run is not affected")
            out_since = out_since or now()
            if now() - out_since > OUTAGE_LIMIT:
                raise
            continue
        if out_since is not None:
            view.note(f"AWS answers again after {span_text((now() - out_since).total_seconds())}")
            out_since = None
        unknown_since = (unknown_since or now()) if sight.word == "unknown" else None
        if unknown_since is not None and now() - unknown_since > UNKNOWN_LIMIT:
            raise ChronosError(
                f"run {sight.run_id} has no state file and no end in run.json, and {sight.detail}. "
                f"Look at the EC2 console for instances with the tag RunId={sight.run_id}"
            )
    return sight
