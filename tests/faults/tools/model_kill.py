"""The model of kill_training.sh."""

from __future__ import annotations

from typing import Final

from chronos_ec2.exit_codes import ExitCode
from tools.model_cloud import FAIL, LATE, OK, Machine, State
from tools.model_launch import Launch
from tools.model_steps import Call, End, Goto, Steps, retry_with_backoff

MAKE_SURE_ATTEMPTS: Final = 2


class Kill(Launch):
    """kill_training.sh."""

    def kill(self, name: str, wait: bool) -> Steps:
        """`take_stock`; then `end_runs` in stages."""
        live = yield from self.live_instances()
        if live is FAIL:
            return ExitCode.FAILED
        seen = yield from self.read_state()
        if seen is FAIL:
            return ExitCode.FAILED
        numbers = tuple(machine.number for machine in live)
        unlisted = seen.instance if seen is not None and seen.instance not in numbers else None
        runs = {machine.run for machine in live} | ({seen.run} if seen is not None else set())
        if not runs:
            return ExitCode.OK
        held = seen.run if seen is not None else None
        arguments = (name, held, tuple(sorted(runs)), numbers, unlisted)
        return Goto("make_sure", arguments) if held is None else Goto("ask_to_stop", (*arguments, wait))

    def ask_to_stop(
        self,
        name: str,
        held: int,
        runs: tuple[int, ...],
        numbers: tuple[int, ...],
        unlisted: int | None,
        wait: bool,
    ) -> Steps:
        """Mark the run, whether anybody waits or not; then wait for it."""
        marked = yield from self._mark(name, held)
        if isinstance(marked, State) and marked.instance not in numbers:
            unlisted = marked.instance
        if numbers and wait:
            yield Call("wait_gone", (numbers, runs, "late is allowed"))
        return Goto("make_sure", (name, held, runs, numbers, unlisted))

    def _mark(self, name: str, held: int) -> Steps:
        """Mark the run killed, or failed: again when it has moved on in this very moment.

        Returns the state that says so, None when the run holds nothing any more, FAIL.
        """
        for _ in range(2):
            seen = yield from self.read_state()
            if seen is FAIL:
                return FAIL
            if not isinstance(seen, State) or seen.run != held:
                return None
            if seen.status in ("failed", "killed", "cleanup"):
                return seen
            to = "killed" if seen.status == "training" else "failed"
            code, marked = yield from self.transition_state(name, held, to, seen, killed=True)
            if code == ExitCode.OK:
                return marked
            if code == ExitCode.NO_SUCH_RUN:
                return None
            if code != ExitCode.ILLEGAL_TRANSITION:
                return FAIL
        return FAIL

    def make_sure(
        self,
        name: str,
        held: int | None,
        runs: tuple[int, ...],
        numbers: tuple[int, ...],
        unlisted: int | None,
    ) -> Steps:
        """Terminate what is left, and make sure."""
        if unlisted is not None:
            yield from self.terminate_each(unlisted)  # it names one that EC2 does not list yet
        for _ in range(MAKE_SURE_ATTEMPTS):
            live = yield from self.still_live(numbers, runs)
            if live is FAIL:
                return ExitCode.FAILED
            if not live:
                return Goto("settle", (name, held, runs))
            accepted = True
            for number in live:
                accepted = (yield from self.terminate_each(number)) is OK and accepted
            if accepted and (yield Call("wait_gone", (numbers, runs, ""))) is not LATE:
                return Goto("settle", (name, held, runs))
        return ExitCode.FAILED

    def terminate_each(self, number: int) -> Steps:
        """An instance by itself."""
        return (yield from retry_with_backoff(Call("terminate", ((number,),))))

    def still_live(self, numbers: tuple[int, ...], runs: tuple[int, ...]) -> Steps:
        """Which of them still live, or FAIL."""
        live = yield from self.live_instances()
        if live is FAIL:
            return FAIL
        return tuple(machine.number for machine in live if is_one_of(machine, numbers, runs))

    def settle(self, name: str, held: int | None, runs: tuple[int, ...]) -> Steps:
        """The claim is marked before the record says that it has ended, and deleted after it."""
        if held is not None:
            if (yield from self._mark(name, held)) is FAIL:
                return ExitCode.FAILED
            yield from self.transition_state(name, held, "cleanup")
        for run in runs:
            yield from self.finish_run_record(run, "killed")
        if held is not None:
            code: End = yield from self.delete_state(held)
            return code
        return ExitCode.OK


def is_one_of(machine: Machine, numbers: tuple[int, ...], runs: tuple[int, ...]) -> bool:
    """Whether a machine is what was found at the start, or one of those runs'."""
    return machine.number in numbers or machine.run in runs
