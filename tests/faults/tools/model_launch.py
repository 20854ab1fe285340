"""The model of launch_training.sh and of the libraries that only it uses."""

from __future__ import annotations

from typing import Final

from chronos_ec2.exit_codes import ExitCode
from tools.model_cloud import (
    CAPACITY,
    CLAIM_PATIENCE,
    ENDED,
    FAIL,
    MISSING,
    OK,
    PRECONDITION,
    TICK,
    Record,
    State,
)
from tools.model_helpers import Helpers
from tools.model_steps import Call, Goto, Steps, retry_with_backoff

CLAIM_ATTEMPTS: Final = 3
RUN_ID_ATTEMPTS: Final = 4
POOLS: Final = 2


class Launch(Helpers):
    """launch_training.sh and its libraries: a stage for each stretch in which a signal does the same."""

    # -- main, in order ---------------------------------------------------------------------------

    def launch(self, name: str) -> Steps:
        """`main` up to the run's id."""
        code, stale = yield from self.require_claimable()
        if code != ExitCode.OK:
            return code
        return Goto("reserve_run_id", (name, stale, 0))

    def reserve_run_id(self, name: str, stale: State | None, attempt: int) -> Steps:
        """One try for the id of this second."""
        if attempt > 0:
            code, stale = yield from self.require_claimable()
            if code != ExitCode.OK:
                return code
        run = yield Call("choose_second")
        reserved = yield from self._reserve(name, run)
        if reserved is OK:
            return Goto("write_launch_files", (name, run, stale))
        if reserved is PRECONDITION and attempt + 1 < RUN_ID_ATTEMPTS:
            return Goto("reserve_run_id", (name, None, attempt + 1))
        return ExitCode.FAILED

    def write_launch_files(self, name: str, run: int, stale: State | None) -> Steps:
        """The record; what fails here, or is interrupted, is withdrawn."""
        started = yield Call("now")
        if (yield from self.create_run_record(name, run, started)) is FAIL:
            return Goto("withdraw", (run, ExitCode.FAILED))
        return Goto("claim", (name, run, started, stale, 0))

    def claim(self, name: str, run: int, started: int, stale: State | None, attempt: int) -> Steps:
        """One attempt: create the state, or replace the stale one."""
        body = State(run, (name, 1), started, heard=started)
        code = yield from self.atomic_write_state(body, stale)
        if code == ExitCode.STATE_CONFLICT:
            return Goto("look_again", (name, run, started, attempt + 1))
        if code != ExitCode.OK:
            return Goto("release_claim", (name, run, code))
        if stale is not None:
            return Goto("settle_stale_run", (name, run, stale.run))
        return Goto("start_instance", (name, run, 0))

    def look_again(self, name: str, run: int, started: int, attempt: int) -> Steps:
        """`claim`, between two attempts: who holds it now?"""
        code, stale = yield from self.require_claimable()
        if code == ExitCode.OK and attempt >= CLAIM_ATTEMPTS:
            code = ExitCode.HELD
        if code != ExitCode.OK:
            return Goto("withdraw", (run, code))
        return Goto("claim", (name, run, started, stale, attempt))

    def settle_stale_run(self, name: str, run: int, stale_run: int) -> Steps:
        """The record of the run whose claim was taken over."""
        yield from self.finish_run_record(stale_run, "lost")
        return Goto("start_instance", (name, run, 0))

    def start_instance(self, name: str, run: int, attempt: int) -> Steps:
        """config.yaml, and the pools of ladder.sh in turn, each attempt with a token of its own."""
        if attempt > 0:
            code = yield from self.keep_claim(name, run)
            if code == ExitCode.RUN_KILLED:
                return code
            if code != ExitCode.OK:
                return Goto("release_claim", (name, run, ExitCode.LAUNCH_REFUSED))
        number = yield from self._request_instance(run, attempt)
        if isinstance(number, int):
            return Goto("after_acceptance", (name, run, attempt, number))
        if number is CAPACITY and attempt + 1 < POOLS:
            return Goto("start_instance", (name, run, attempt + 1))
        return Goto("release_claim", (name, run, ExitCode.LAUNCH_REFUSED))

    def _request_instance(self, run: int, attempt: int) -> Steps:
        """The instance's number, CAPACITY, REFUSED, or None when its fate is not known."""
        answer = yield from retry_with_backoff(Call("run_instances", (run, attempt)))
        if answer is FAIL:
            return (yield from self._find_instance(run, attempt))
        return answer

    def _find_instance(self, run: int, attempt: int) -> Steps:
        found = yield from retry_with_backoff(Call("find", (run, attempt)))
        return None if found is FAIL else found

    def keep_claim(self, name: str, run: int) -> Steps:
        """The claim, written again; RUN_KILLED when somebody has ended the run."""
        code, seen = yield from self.amend_state(name, run)
        if code == ExitCode.NO_SUCH_RUN or (code == ExitCode.OK and seen.status != "initialization"):
            return ExitCode.RUN_KILLED
        return code

    def after_acceptance(self, name: str, run: int, attempt: int, number: int) -> Steps:
        """The outside switch; an instance without it does not stay. Then `_see_them_start`."""
        if (yield Call("choose_switch")) == "broken":
            if (yield from self.end_instances(number)) is OK:
                return Goto("release_claim", (name, run, ExitCode.LAUNCH_REFUSED))
            return ExitCode.LAUNCH_REFUSED
        power = yield from self._see_them_start(number)
        if power == "stillborn" and attempt + 1 < POOLS:
            return Goto("start_instance", (name, run, attempt + 1))
        if power == "stillborn":
            return Goto("release_claim", (name, run, ExitCode.LAUNCH_REFUSED))
        return Goto("record_instance", (name, run, number))

    def end_instances(self, number: int) -> Steps:
        """Terminate what was just accepted."""
        return (yield from retry_with_backoff(Call("terminate", ((number,),))))

    def _see_them_start(self, number: int) -> Steps:
        return (yield from retry_with_backoff(Call("describe", (number,))))

    def record_instance(self, name: str, run: int, number: int) -> Steps:
        """The id where it is looked for; a claim that is gone was killed in between."""
        code, _ = yield from self.amend_state(name, run, instance=number)
        if code == ExitCode.NO_SUCH_RUN:
            return (yield from self.settle_early_end(number))
        yield from self.update_run_record(run, instance=number)
        return ExitCode.OK

    def settle_early_end(self, number: int) -> Steps:
        """Nobody waits for the instance any more."""
        yield from retry_with_backoff(Call("terminate", ((number,),)))
        return ExitCode.RUN_KILLED

    # -- ends -------------------------------------------------------------------------------------

    def release_claim(self, name: str, run: int, code: ExitCode) -> Steps:
        """`on_exit` of a launch that may hold a claim and has no instance."""
        failed, known = yield from self.transition_state(name, run, "failed")
        if failed not in (ExitCode.FAILED, ExitCode.STATE_CONFLICT):
            yield from self.finish_run_record(run, "launch_failed")
        if failed == ExitCode.OK:
            yield from self.transition_state(name, run, "cleanup", known)
        yield from self.delete_state(run)
        return code

    def withdraw(self, run: int, code: ExitCode) -> Steps:
        """`on_exit` of a launch that came to no claim."""
        if (yield from retry_with_backoff(Call("drop_record", (run,)))) is not FAIL:
            yield from self.release_run_id(run)
        return code

    # -- libraries --------------------------------------------------------------------------------

    def require_claimable(self) -> Steps:
        """The exit code, and the stale claim to replace."""
        holder = yield from self.check_concurrent_run()
        if holder is FAIL:
            return ExitCode.FAILED, None
        if holder is None:
            return ExitCode.OK, None
        fate = yield from self.instance_fate(holder.run, holder.instance)
        if fate == "gone":
            return ExitCode.OK, holder
        if fate == "missing" and (yield from self._claim_is_old(holder)):
            return ExitCode.OK, holder
        return ExitCode.HELD, None

    def check_concurrent_run(self) -> Steps:
        """The holder, None, or FAIL."""
        return (yield from self.read_state())

    def _claim_is_old(self, holder: State) -> Steps:
        now = yield Call("now")
        return (now - holder.heard) * TICK > CLAIM_PATIENCE

    def instance_fate(self, run: int, number: int | None) -> Steps:
        """What EC2 says: a state, `gone`, `missing` or `unknown`."""
        if number is None:
            found = yield from self.live_instances(run)
            if found is FAIL:
                return "unknown"
            return found[0].power if found else "missing"
        power = yield from retry_with_backoff(Call("describe", (number,)))
        if power is MISSING:
            return "missing"
        if power is FAIL:
            return "unknown"
        return "gone" if power in ENDED else power

    def live_instances(self, run: int | None = None) -> Steps:
        """The live instances, or FAIL."""
        return (yield from retry_with_backoff(Call("list_live", (run,))))

    def _reserve(self, name: str, run: int) -> Steps:
        answer = yield from retry_with_backoff(Call("reserve", (run, name)))
        if answer is PRECONDITION:
            owner = yield from retry_with_backoff(Call("get_reserved", (run,)))
            return OK if owner == name else PRECONDITION
        return answer

    def release_run_id(self, run: int) -> Steps:
        """Give an id back."""
        return (yield from retry_with_backoff(Call("drop_reserved", (run,))))

    def create_run_record(self, name: str, run: int, started: int) -> Steps:
        """run.json; a refusal answers our own write, made again: the id is reserved."""
        return (yield from retry_with_backoff(Call("create_record", (run, Record(name, started)))))
