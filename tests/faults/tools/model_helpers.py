"""The model of the Bash libraries that laptop and instance share: state_helpers.sh, run_record.sh."""

from __future__ import annotations

from typing import Any, Final

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.machine import is_allowed
from tools.model_cloud import FAIL, MISSING, OK, PRECONDITION, State
from tools.model_steps import Call, Steps, retry_with_backoff

RACES: Final = 4
RECORD_RACES: Final = 3


class Helpers:
    """Functions of the two libraries, by their names. `name` is the program that calls."""

    def read_state(self) -> Steps:
        """The state, None, or FAIL."""
        return (yield from retry_with_backoff(Call("get_state")))

    def next_state(self, name: str, state: State, **changes: Any) -> Steps:
        """`_next_state`: a new writer, the next revision, heard of now."""
        heard = yield Call("now")
        revision = state.revision + 1
        return state._replace(revision=revision, heard=heard, writer=(name, revision), **changes)

    def atomic_write_state(self, body: State, expected: State | None) -> Steps:
        """OK, STATE_CONFLICT or FAILED."""
        answer = yield from retry_with_backoff(Call("publish", (body, expected)))
        if answer is OK:
            return ExitCode.OK
        return (yield from self._settle_refused_write(answer, body, expected))

    def _settle_refused_write(self, answer: object, body: State, expected: State | None) -> Steps:
        seen = yield from self.read_state()
        if seen is FAIL:
            return ExitCode.FAILED
        if isinstance(seen, State):
            if seen.writer == body.writer:
                return ExitCode.OK
            if body.revision == 1 and seen.run == body.run:
                return ExitCode.FAILED
            if expected is None:
                return ExitCode.STATE_CONFLICT
        return ExitCode.STATE_CONFLICT if answer in (PRECONDITION, MISSING) else ExitCode.FAILED

    def transition_state(
        self, name: str, run: int, status: str, known: State | None = None, **changes: object
    ) -> Steps:
        """The exit code, and the state as it is now known."""
        for _ in range(RACES):
            if known is None or known.run != run or not is_allowed(known.status, status):
                known = yield from self.read_state()
                if known is FAIL:
                    return ExitCode.FAILED, None
                if not isinstance(known, State) or known.run != run:
                    return ExitCode.NO_SUCH_RUN, None
                if not is_allowed(known.status, status):
                    return ExitCode.ILLEGAL_TRANSITION, known
            code, known = yield from self._write_next(name, known, status=status, **changes)
            if code != ExitCode.STATE_CONFLICT:
                return code, known
        return ExitCode.STATE_CONFLICT, None

    def _write_next(self, name: str, seen: State, **changes: object) -> Steps:
        body = yield from self.next_state(name, seen, **changes)
        code = yield from self.atomic_write_state(body, seen)
        return code, body if code == ExitCode.OK else None

    def amend_state(self, name: str, run: int, **changes: object) -> Steps:
        """The exit code, and the state as it was written."""
        for _ in range(RACES):
            seen = yield from self.read_state()
            if seen is FAIL:
                return ExitCode.FAILED, None
            if not isinstance(seen, State) or seen.run != run:
                return ExitCode.NO_SUCH_RUN, None
            code, seen = yield from self._write_next(name, seen, **changes)
            if code != ExitCode.STATE_CONFLICT:
                return code, seen
        return ExitCode.STATE_CONFLICT, None

    def delete_state(self, run: int) -> Steps:
        """Delete a run's state; one that is gone, or another run's, stays as it is."""
        for _ in range(RACES):
            seen = yield from self.read_state()
            if seen is FAIL:
                return ExitCode.FAILED
            if not isinstance(seen, State) or seen.run != run:
                return ExitCode.OK
            answer = yield from self.delete_state_if_match(seen)
            if answer in (OK, MISSING):
                return ExitCode.OK
            if answer is FAIL:
                return ExitCode.FAILED
        return ExitCode.STATE_CONFLICT

    def delete_state_if_match(self, seen: State) -> Steps:
        """OK, MISSING, PRECONDITION or FAIL."""
        return (yield from retry_with_backoff(Call("drop_state", (seen,))))

    def update_run_record(self, run: int, **changes: object) -> Steps:
        """Merge changes into run.json, unless it has its end."""
        for _ in range(RECORD_RACES):
            record = yield from retry_with_backoff(Call("get_record", (run,)))
            if record is FAIL or record is None:
                return ExitCode.FAILED
            if record.outcome is not None:
                return ExitCode.OK
            answer = yield from self._put_text(run, record._replace(**changes), record)
            if answer is OK:
                return ExitCode.OK
            if answer is not PRECONDITION:
                return ExitCode.FAILED
        return ExitCode.FAILED

    def _put_text(self, run: int, record: object, old: object) -> Steps:
        return (yield from retry_with_backoff(Call("put_record", (run, record, old))))

    def finish_run_record(self, run: int, outcome: str) -> Steps:
        """Write a run's end, once."""
        return (yield from self.update_run_record(run, outcome=outcome))
