"""The model of bootstrap.sh, of the watch for a kill beside it, and of the training wrapper's heartbeat."""

from __future__ import annotations

from typing import Final

from chronos_ec2.exit_codes import ExitCode
from tools.model_cloud import FAIL, OK, TICK, State
from tools.model_helpers import Helpers
from tools.model_steps import Call, Goto, Steps, retry_with_backoff

PHASES: Final = ("initialization", "data_sync", "training", "results_sync")
OVER: Final = ("failed", "killed", "cleanup")
QUIET_SECONDS: Final = 60
BEAT_RACES: Final = 3


class Instance(Helpers):
    """bootstrap.sh and companions.sh; heartbeat.py in `_beat`."""

    def run_phase(self, number: int, run: int, index: int, known: State | None) -> Steps:
        """The state first: it is the check that this run still holds the environment."""
        name, status = f"i{number}", PHASES[index]
        code, known = yield from self.transition_state(name, run, status, known, instance=number)
        if code != ExitCode.OK:
            return Goto("on_exit", (number, run, code, index))
        return Goto("phase_training" if status == "training" else "phase_work", (number, run, index, known))

    def phase_work(self, number: int, run: int, index: int, known: State) -> Steps:
        """The work of a phase, which may fail."""
        if (yield Call("choose_work", (False,))) == "broken":
            return Goto("on_exit", (number, run, ExitCode.RUN_FAILED, index))
        if index + 1 == len(PHASES):
            return Goto("on_exit", (number, run, ExitCode.OK, index))
        return Goto("run_phase", (number, run, index + 1, known))

    def phase_training(self, number: int, run: int, index: int, known: State | None) -> Steps:
        """The wrapper trains and beats; what it finds lost ends it. The bootstrap knows the state no more."""
        turn = yield Call("choose_work", (True,))
        if turn == "beat":
            lost = yield from self._beat(number, run)
            if not lost:
                return Goto("phase_training", (number, run, index, None))
            turn = "broken"
        if turn == "broken":
            return Goto("on_exit", (number, run, ExitCode.RUN_FAILED, index))
        return Goto("run_phase", (number, run, index + 1, None))

    def _beat(self, number: int, run: int) -> Steps:
        """One heartbeat; True when the run is not to go on."""
        for _ in range(BEAT_RACES):
            seen = yield Call("get_state")
            if seen is FAIL:
                return False
            if not isinstance(seen, State) or seen.run != run or seen.status in OVER:
                return True
            body = yield from self.next_state(f"i{number}", seen)
            if (yield from self.atomic_write_state(body, seen)) != ExitCode.STATE_CONFLICT:
                return False
        return False

    def on_exit(self, number: int, run: int, code: ExitCode, index: int) -> Steps:
        """The one handler of every end."""
        name = f"i{number}"
        reason = yield Call("reason", (number,))
        if code != ExitCode.OK and not reason:
            reason = yield from self.note_stop_reason(run)
        outcome = "killed" if reason == "killed" else "succeeded" if code == ExitCode.OK else "failed"
        known = None
        if outcome != "succeeded" and not reason:
            known = yield from self.rescue(name, number, run)
        yield from self.transition_state(name, run, "cleanup", known)
        yield from self.finish_run_record(run, outcome)
        yield from self.delete_state(run)
        yield from retry_with_backoff(Call("terminate", ((number,),)))
        yield Call("power_off", (number,))
        return code

    def note_stop_reason(self, run: int) -> Steps:
        """Ask once more why this ends."""
        return (yield from self.reason_to_stop(run))

    def rescue(self, name: str, number: int, run: int) -> Steps:
        """Mark the run failed; the state as it is now known."""
        _, known = yield from self.transition_state(name, run, "failed", instance=number)
        return known

    # -- companions.sh ----------------------------------------------------------------------------

    def watch_for_kill(self, number: int, run: int) -> Steps:
        """One look; it goes on looking until there is a reason."""
        seen = yield from self.read_state()
        reason = self._reason_in_state(seen, run)
        if reason:
            yield Call("signal", (number, reason))
            return ExitCode.OK
        yield from self.beat_if_quiet(number, run, seen)
        return Goto("watch_for_kill", (number, run))

    def reason_to_stop(self, run: int) -> Steps:
        """`killed`, `lost`, or nothing."""
        return self._reason_in_state((yield from self.read_state()), run)

    @staticmethod
    def _reason_in_state(seen: object, run: int) -> str:
        """A state that cannot be read is no reason."""
        if seen is FAIL:
            return ""
        if not isinstance(seen, State) or seen.run != run:
            return "lost"
        return "killed" if seen.killed and seen.status in ("killed", "failed") else ""

    def beat_if_quiet(self, number: int, run: int, seen: object) -> Steps:
        """A heartbeat when the state that was just read is a minute old and nobody trains."""
        if not isinstance(seen, State) or seen.run != run or seen.status == "training":
            return OK
        now = yield Call("now")
        if (now - seen.heard) * TICK.total_seconds() <= QUIET_SECONDS:
            return OK
        body = yield from self.next_state(f"w{number}", seen)
        return (yield from self.atomic_write_state(body, seen))
