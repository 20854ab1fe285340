"""Two launchers, an instance and a killer on one environment, in any order, with answers that get lost."""

from __future__ import annotations

import contextlib
import itertools
import json
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chronos_ec2.errors import IllegalTransition, StateConflict, StateHeld, StateMissing
from chronos_ec2.state.store import Snapshot, StateStore

from .fakes import BUCKET, KEY, MemoryS3, client_error, lost_answer, state_body
from .test_machine import DOCUMENT, SEVEN

REFUSALS = (StateHeld, StateMissing, StateConflict, IllegalTransition)
OPERATIONS = st.sampled_from(["get_object", "put_object", "copy_object", "delete_object", "drop_temporary"])
FAILURES = st.sampled_from(["lost", "503", "409", "500"])
LAUNCHERS = st.sampled_from([0, 1])
NEXT_STATUS = {"initialization": "data_sync", "data_sync": "training", "training": "results_sync"}


class WatchedS3(MemoryS3):
    """Keeps every body that the state file has had; None: it was deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[dict[str, Any] | None] = []
        self.failed_drops = 0
        self._last: bytes | None = None

    def _end(self, operation: str, answer: dict[str, Any]) -> dict[str, Any]:
        now = self.objects.get(KEY)
        if now != self._last:
            self.history.append(None if now is None else json.loads(now))
            self._last = now
        return super()._end(operation, answer)

    def delete_object(self, **arguments: Any) -> dict[str, Any]:
        try:
            return super().delete_object(**arguments)
        except (ClientError, BotoCoreError):
            self.failed_drops += ".tmp-" in arguments["Key"]
            raise


class Environment(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.s3 = WatchedS3()
        self.run_ids = (f"2025-01-15-{number:06d}" for number in itertools.count())
        self.seen: dict[int, Snapshot | None] = {}
        self.wins: list[str] = []
        self.claimed_by: dict[int, str] = {}

    def store(self) -> StateStore:
        now = datetime(2025, 1, 15, tzinfo=UTC)
        return StateStore(self.s3, BUCKET, "dev", now=lambda: now, sleep=lambda _: None, jitter=lambda: 0.0)

    def act(self, call: Any) -> Any:
        """Do one thing; what the protocol may refuse is refused, what S3 withholds is withheld."""
        try:
            return call()
        except (*REFUSALS, ClientError, BotoCoreError):
            return None

    @rule(operation=OPERATIONS, failure=FAILURES, applied=st.booleans(), times=st.integers(1, 8))
    def s3_stumbles(self, operation: str, failure: str, applied: bool, times: int) -> None:
        # what fails before it was applied may have any code; an answer is lost by a time-out or a 500
        error = lost_answer() if failure == "lost" or applied else client_error(failure, operation)
        self.s3.plan(operation, *[error] * times, applied=applied)

    @rule()
    def s3_recovers(self) -> None:
        self.s3.forget_plans()

    @rule(launcher=LAUNCHERS)
    def launch(self, launcher: int) -> None:
        run_id = next(self.run_ids)
        if self.act(lambda: self.store().claim(state_body(run_id))) is not None:
            self.wins.append(run_id)
            self.claimed_by[launcher] = run_id

    @rule(first=LAUNCHERS)
    def two_launches_meet(self, first: int) -> None:
        """The second claims between the first one's staging and its copy."""
        self.s3.before.setdefault("copy_object", []).insert(0, lambda: self.launch(1 - first))
        self.launch(first)

    @rule(launcher=LAUNCHERS)
    @precondition(lambda self: self.claimed_by)
    def give_up(self, launcher: int) -> None:
        """A launcher whose instance was refused walks its run to its end and deletes the file."""
        run_id = self.claimed_by.get(launcher)
        if run_id is None:
            return
        self.act(lambda: self.store().transition(run_id, "failed", "launch"))
        self.act(lambda: self.store().transition(run_id, "cleanup", "cleanup"))
        self.free(run_id)

    def free(self, run_id: str) -> None:
        seen = self.act(lambda: self.store().read())
        if seen is not None and seen.run_id == run_id:
            self.act(lambda: self.store().delete(seen))

    @rule(actor=st.integers(0, 3))
    def look(self, actor: int) -> None:
        self.seen[actor] = self.act(lambda: self.store().read())

    @rule(actor=st.integers(0, 3), status=st.sampled_from(SEVEN))
    def write_what_was_seen_long_ago(self, actor: int, status: str) -> None:
        seen = self.seen.get(actor)
        if seen is not None:
            self.act(lambda: self.store().update(seen, {"status": status, "current_step": status}))

    @rule(actor=st.integers(0, 3))
    def delete_what_was_seen_long_ago(self, actor: int) -> None:
        seen = self.seen.get(actor)
        if seen is not None:
            self.act(lambda: self.store().delete(seen))

    @rule(race=st.booleans())
    @precondition(lambda self: self.wins)
    def instance_beats(self, race: bool) -> None:
        run_id = self.wins[-1]
        if race:
            self.s3.before.setdefault("copy_object", []).insert(0, lambda: self.kill())
        self.act(lambda: self.store().modify(run_id, {"current_step": "step", "pid": 42}))

    @rule()
    @precondition(lambda self: self.wins)
    def instance_moves_on(self) -> None:
        run_id, seen = self.wins[-1], self.act(lambda: self.store().read())
        if seen is not None and seen.run_id == run_id:
            status = NEXT_STATUS.get(seen.status, "cleanup")
            self.act(lambda: self.store().transition(run_id, status, status))

    @rule()
    def kill(self) -> None:
        seen = self.act(lambda: self.store().read())
        if seen is not None:
            status = "killed" if seen.status == "training" else "failed"
            self.act(
                lambda: self.store().transition(seen.run_id, status, "x", error_message="killed by operator")
            )

    @invariant()
    def history_keeps_the_rules(self) -> None:
        previous: dict[str, Any] | None = None
        claimed: set[str] = set()
        for body in self.s3.history:
            if body is not None and previous is None:
                assert body["control"]["revision"] == 1
                assert body["run_id"] not in claimed, "what was deleted came back without a new claim"
                claimed.add(body["run_id"])
            elif body is not None and previous is not None:
                assert body["run_id"] == previous["run_id"], "an owner was written over"
                assert body["control"]["revision"] == previous["control"]["revision"] + 1
                assert body["control"]["writer"] != previous["control"]["writer"]
                move = (previous["status"], body["status"])
                assert move[0] == move[1] or move in DOCUMENT, move
            previous = body

    @invariant()
    def a_kill_is_never_forgotten(self) -> None:
        for before, after in itertools.pairwise(self.s3.history):
            if before is not None and after is not None and before["error_message"] is not None:
                assert after["error_message"] == before["error_message"]

    @invariant()
    def who_was_told_that_it_won_did_own_the_environment(self) -> None:
        owners = {body["run_id"] for body in self.s3.history if body is not None}
        assert set(self.wins) <= owners

    @invariant()
    def every_staged_body_was_dropped_unless_s3_refused(self) -> None:
        assert sum(".tmp-" in key for key in self.s3.keys) <= self.s3.failed_drops

    def teardown(self) -> None:
        self.s3.forget_plans()
        with contextlib.suppress(StateMissing, IllegalTransition):
            seen = self.store().read()
            if seen is not None:
                self.store().modify(seen.run_id, {"pid": None})
                self.history_keeps_the_rules()


TestEnvironment = Environment.TestCase
TestEnvironment.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
