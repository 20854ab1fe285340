"""One run seen from the laptop: its state file, its run.json and, when the heartbeat is old, EC2."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.errors import ChronosError, LocalCloudDown, StateUnreadable
from chronos_ec2.report.run_files import moment
from chronos_ec2.state.clock import utc_now
from chronos_ec2.state.store import StateStore
from chronos_ec2.words import one_line
from chronos_ec2.workstation.log_parts import LogTail
from chronos_ec2.workstation.next_step import ec2_warning
from chronos_ec2.workstation.outcome import (
    LAUNCH_GRACE,
    Fate,
    expected_since,
    finish_record,
    instance_fate,
    is_launching,
    nodes_of,
    phase_of_step,
)
from chronos_ec2.workstation.run_cost import cost_until, total_of
from chronos_ec2.workstation.run_ids import check_run_id, list_run_ids, no_such_run, run_prefix
from chronos_ec2.workstation.run_metrics import PartsReader
from chronos_ec2.workstation.run_progress import Progress, Tracker
from chronos_ec2.workstation.run_record import RunRecord, parse_record
from chronos_ec2.workstation.s3 import (
    RecordUnreadable,
    StorageUnreachable,
    get_json,
    list_prefix,
    translated,
)
from chronos_ec2.workstation.settings import check_environment_name
from chronos_ec2.workstation.sight import Phase, Sight, phases_from

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

BEATS_BEFORE_ASKING: Final = 3
BEATS_BEFORE_STALLED: Final = 8
# Outside training the state is written once a phase, not at every beat.
PHASE_PATIENCE: Final = timedelta(minutes=10)
ASK_EVERY: Final = timedelta(seconds=15)
# A kill drops the state a moment before it completes run.json.
END_GRACE: Final = timedelta(seconds=10)
TAIL_BYTES: Final = 8192
TAIL_LINES: Final = 12
TRANSIENT: Final = (StorageUnreachable, LocalCloudDown)
_WORDS: Final = {
    "initialization": "booting",
    "data_sync": "syncing",
    "training": "training",
    "results_sync": "saving",
    "cleanup": "cleaning up",
    "failed": "failing",
    "killed": "stopping",
}


def _names_machine(document: Mapping[str, Any] | None) -> bool:
    machine = (document or {}).get("instance")
    return isinstance(machine, dict) and machine.get("id") is not None


class Observer:
    """One run seen from outside; `look` is one poll.

    Args:
        run_id: which run; None takes the one that holds the environment at the first look.
        heartbeat_seconds: how often a healthy run writes its state.
    """

    def __init__(
        self,
        s3: S3Client,
        ec2: EC2Client,
        bucket: str,
        environment: str,
        run_id: str | None = None,
        *,
        heartbeat_seconds: float = 15,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._s3, self._ec2, self._bucket = s3, ec2, bucket
        self._environment = check_environment_name(environment)
        self.run_id = check_run_id(run_id) if run_id else None
        self._beat = timedelta(seconds=heartbeat_seconds)
        self._now = now
        self._store = StateStore(s3, bucket, environment, now=now, sleep=sleep)
        self._last_state: dict[str, Any] | None = None
        self._vanished_at: datetime | None = None
        self._fate: tuple[datetime, Fate] | None = None
        self._phases: dict[str, Phase] = {}
        self._parts: PartsReader | None = None
        self._log: LogTail | None = None
        self._tracker = Tracker()
        self._document: tuple[datetime, dict[str, Any] | None] | None = None

    def look(self) -> Sight:
        """What can be seen now. A sight with an outcome is the run's end.

        Raises:
            StateUnreadable: the state file is corrupt; says what is in it and what to do.
            NoSuchRun: there is no trace of the run that was asked for.
            StorageUnreachable: AWS did not answer; look again.
        """
        state = self._read_state()
        if self.run_id is None and state is None:
            return self._idle()
        self.run_id = self.run_id or check_run_id(str((state or {})["run_id"]))
        if state is not None and state["run_id"] == self.run_id:
            self._last_state, self._vanished_at = state, None
            return self._holding(self.run_id, state)
        return self._without_state(self.run_id)

    def log_tail(self, lines: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines of the run's log as far as they are in S3."""
        if self.run_id is None:
            return ()
        if self._log is None:
            key = f"{run_prefix(self._environment, self.run_id)}logs/bootstrap.log"
            self._log = LogTail(self._s3, self._bucket, key)
        text = self._log.read(TAIL_BYTES).decode(errors="replace")
        return tuple(text.splitlines()[-lines:])

    def progress(self, sight: Sight) -> Progress:
        """How far the run of a sight has come, as far as its metrics are in S3.

        Raises:
            StorageUnreachable: AWS did not answer; look again.
        """
        if self.run_id is None:
            return Progress()
        if self._parts is None:
            prefix = run_prefix(self._environment, self.run_id)
            self._parts = PartsReader(self._s3, self._bucket, prefix)
        self._tracker.take(self._parts.new_records())
        document = self._document[1] if self._document else None
        return self._tracker.progress(document, sight.current_step, sight.log_tail, self._now())

    def _read_state(self) -> dict[str, Any] | None:
        with translated(self._store.uri):
            try:
                snapshot = self._store.read()
            except StateUnreadable as error:
                raw = self._store.read_raw()
                start = raw[0][:120].decode(errors="replace") if raw else ""
                raise StateUnreadable(
                    f"{error}. The file begins {start!r}. Nothing in it can be trusted: "
                    f"invoke kill --env {self._environment} finds the machine by its tags, ends it and "
                    f"clears the file"
                ) from error
        return snapshot.body if snapshot else None

    def _holding(self, run_id: str, state: dict[str, Any]) -> Sight:
        age = self._age(state)
        word = "launching" if state["instance_id"] is None else _WORDS[state["status"]]
        if isinstance(state["control"].get("interruption"), dict):
            word = "interrupted"
        detail = None
        if age > self._beat * BEATS_BEFORE_ASKING:
            fate = self._ask(run_id, state["instance_id"], moment(expected_since(state)), nodes_of(state))
            if fate.state == "gone" and not (is_launching(state, run_id) and age < LAUNCH_GRACE):
                return self._gone(run_id, fate, state)
            beats = self._beat * BEATS_BEFORE_STALLED
            if age > (beats if state["status"] == "training" else max(beats, PHASE_PATIENCE)):
                word, detail = "stalled", fate.words
        document = self._written_record(run_id)
        record = parse_record(self._environment, run_id, document, state, self._now())
        self._note_phases(state)
        return replace(
            self._sight(record, word),
            status=state["status"],
            current_step=one_line(state["current_step"]),
            heartbeat_age_seconds=age.total_seconds(),
            phases=tuple(self._phases.values()),
            detail=detail or state["error_message"] or ec2_warning(state),
            cost_at_deadline_usd=self._cost_at_deadline(document, state),
            deadline=moment(state["control"].get("deadline")),
        )

    def _written_record(self, run_id: str) -> dict[str, Any] | None:
        """run.json, which has the prices: read until it names the machine, as seldom as EC2 is asked."""
        known = self._document
        if known is None or (not _names_machine(known[1]) and self._now() - known[0] >= ASK_EVERY):
            key = f"{run_prefix(self._environment, run_id)}run.json"
            try:
                document = get_json(self._s3, self._bucket, key)
            except RecordUnreadable:
                document = None  # what the run costs is not known then; how it goes is
            self._document = known = self._now(), document
        return None if known[1] is None or known[1].get("outcome") else known[1]

    def _cost_at_deadline(self, document: dict[str, Any] | None, state: Mapping[str, Any]) -> float | None:
        deadline, instance_id = moment(state["control"].get("deadline")), state["instance_id"]
        if document is None or deadline is None or not (instance_id or _names_machine(document)):
            return None
        return total_of(cost_until(document, deadline, instance_id))

    def _without_state(self, run_id: str) -> Sight:
        """The state file is gone, or another run's: run.json decides, else EC2."""
        try:
            document = get_json(self._s3, self._bucket, f"{run_prefix(self._environment, run_id)}run.json")
        except RecordUnreadable:
            document = None  # EC2 can still say whether the machine is gone
        if document and document.get("outcome"):
            return self._end(run_id, document)
        if document is None and self._last_state is None:
            self._require_trace(run_id)
        if self._last_state is not None:
            self._vanished_at = self._vanished_at or self._now()
            if self._now() - self._vanished_at < END_GRACE:
                return self._bare(run_id, document, "ending", "the state file is gone; waiting for run.json")
        record = parse_record(self._environment, run_id, document, self._last_state, self._now())
        fate = self._ask(run_id, record.instance_id, record.started_at, record.nodes)
        if fate.state == "gone":
            return self._gone(run_id, fate, self._last_state)
        if fate.state == "unknown":
            return self._bare(run_id, document, "unknown", fate.words)
        advice = f"no state file, but {fate.words}; end it with invoke kill --env {self._environment}"
        return self._bare(run_id, document, "orphaned", advice)

    def _idle(self) -> Sight:
        known = list_run_ids(self._s3, self._bucket, self._environment)
        if not known:
            hint = f"no run yet; start one with invoke launch --env {self._environment}"
            return Sight(
                environment=self._environment, run_id=None, word="idle", seen_at=self._now(), detail=hint
            )
        last = self._without_state(known[0])
        if last.outcome is None:
            self.run_id = known[0]  # a machine may still run: worth following
            return last
        return replace(last, word="idle", detail="no run is active; this was the last one")

    def _gone(self, run_id: str, fate: Fate, state: Mapping[str, Any] | None) -> Sight:
        """The machine is gone: the end is what run.json says, or what it says once completed."""
        environment, trouble = self._environment, None
        write = not is_launching(state, run_id)
        try:
            document = finish_record(
                self._s3, self._bucket, environment, run_id, fate, state=state, write=write, now=self._now
            )
        except ChronosError as error:
            if isinstance(error, TRANSIENT):
                raise
            document, trouble = None, f"its record could not be completed: {error}"
        if document is None:
            document = {"outcome": "lost", "error": fate.words}
        sight = self._end(run_id, document)
        return replace(sight, detail=trouble) if trouble else sight

    def _end(self, run_id: str, document: Mapping[str, Any]) -> Sight:
        record = parse_record(self._environment, run_id, document, self._last_state, self._now())
        phases = phases_from(document.get("phases")) or tuple(
            phase.ended(self._now()) for phase in self._phases.values()
        )
        word = "gone" if record.outcome == "lost" else record.outcome
        return replace(self._sight(record, word), outcome=record.outcome, phases=phases)

    def _bare(self, run_id: str, document: Mapping[str, Any] | None, word: str, detail: str) -> Sight:
        record = parse_record(self._environment, run_id, document, self._last_state, self._now())
        return replace(self._sight(record, word), detail=detail, phases=tuple(self._phases.values()))

    def _sight(self, record: RunRecord, word: str) -> Sight:
        return Sight(
            environment=self._environment,
            run_id=record.run_id,
            word=word,
            seen_at=self._now(),
            instance_id=record.instance_id,
            record=record,
            results=f"s3://{self._bucket}/{run_prefix(self._environment, record.run_id)}",
        )

    def _age(self, state: Mapping[str, Any]) -> timedelta:
        beat = moment(state["timestamps"]["last_update"])
        return max(timedelta(0), self._now() - beat) if beat else timedelta(0)

    def _ask(self, run_id: str, instance_id: str | None, started_at: datetime | None, nodes: int) -> Fate:
        """EC2's word, at most every `ASK_EVERY`."""
        if self._fate is None or self._now() - self._fate[0] >= ASK_EVERY:
            fate = instance_fate(
                self._ec2,
                self._environment,
                run_id,
                instance_id,
                nodes=nodes,
                started_at=started_at,
                now=self._now,
            )
            self._fate = self._now(), fate
        return self._fate[1]

    def _require_trace(self, run_id: str) -> None:
        if not list_prefix(self._s3, self._bucket, run_prefix(self._environment, run_id)):
            known = list_run_ids(self._s3, self._bucket, self._environment)
            raise no_such_run(self._environment, run_id, known)

    def _note_phases(self, state: Mapping[str, Any]) -> None:
        """Keep the phases as the run has written them, and the one that it is in since it was first seen."""
        name = phase_of_step(str(state["current_step"]))
        written = {phase.name: phase for phase in phases_from(state["control"].get("phases"))}
        if name not in written:
            known = {**written, **self._phases}
            ended = {old: phase.ended(self._now()) for old, phase in known.items() if old != name}
            written = {**ended, name: self._phases.get(name, Phase(name, self._now()))}
        self._phases = written
