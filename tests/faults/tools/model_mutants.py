"""Broken protocols, each with one mistake: the rules must find every one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chronos_ec2.exit_codes import ExitCode
from tools.model_cloud import CAPACITY, FAIL, MISSING, OK, PRECONDITION, Cloud, Record, State
from tools.model_explorer import Protocol
from tools.model_scenes import (
    KILL,
    KILL_NOW,
    LAUNCH_1,
    LAUNCH_2,
    LAUNCHING,
    REAP,
    TRAINING,
    Scene,
    run_zero,
)
from tools.model_steps import Call, Goto, Steps, retry_with_backoff
from tools.model_world import Actor, Left


class PlainWrite(Protocol):
    """The state is written without a condition."""

    def atomic_write_state(self, body: State, expected: State | None) -> Steps:
        answer = yield from retry_with_backoff(Call("publish", (body, expected, False)))
        return ExitCode.OK if answer is OK else ExitCode.FAILED


class PlainDelete(Protocol):
    """The state is deleted without If-Match."""

    def delete_state_if_match(self, seen: State) -> Steps:
        return (yield from retry_with_backoff(Call("drop_state", (None,))))


class Impatient(Protocol):
    """A claim whose instance EC2 does not know is taken over however young it is."""

    def _claim_is_old(self, holder: State) -> Steps:
        yield Call("now")
        return True


class GivesBackAnothers(Protocol):
    """A claim is given back without a look whose it is."""

    def delete_state(self, run: int) -> Steps:
        seen = yield from self.read_state()
        answer = OK if seen is None else seen
        if isinstance(seen, State):
            answer = yield from self.delete_state_if_match(seen)
        return ExitCode.FAILED if answer is FAIL else ExitCode.OK


class NoToken(Protocol):
    """Each try of run-instances is a new one."""

    def _request_instance(self, run: int, attempt: int) -> Steps:
        answer = yield from retry_with_backoff(Call("run_instances", (run, attempt, False)))
        return None if answer is FAIL else answer


class GoesOn(Protocol):
    """An answer that never came is taken for a refusal, and the next pool is tried."""

    def _request_instance(self, run: int, attempt: int) -> Steps:
        answer = yield from retry_with_backoff(Call("run_instances", (run, attempt)))
        return CAPACITY if answer is FAIL else answer


class NoTable(Protocol):
    """A kill writes `killed` whatever the run is at."""

    def _mark(self, name: str, held: int) -> Steps:
        seen = yield from self.read_state()
        if not isinstance(seen, State):
            return seen
        body = yield from self.next_state(name, seen, status="killed", killed=True)
        yield from self.atomic_write_state(body, seen)
        return body


class SharedIds(Protocol):
    """A run's id is the second of its launch, whoever else has it."""

    def _reserve(self, name: str, run: int) -> Steps:
        yield Call("get_reserved", (run,))
        return OK


class ForgetsItsNonce(Protocol):
    """412 means that another was faster, even after an answer that never came."""

    def _settle_refused_write(self, answer: object, body: State, expected: State | None) -> Steps:
        yield from self.read_state()
        return ExitCode.STATE_CONFLICT if answer in (PRECONDITION, MISSING) else ExitCode.FAILED


class TakesSilenceForLoss(Protocol):
    """A write that cannot be read back is taken for one that did not land."""

    def _settle_refused_write(self, answer: object, body: State, expected: State | None) -> Steps:
        code = yield from Protocol._settle_refused_write(self, answer, body, expected)
        return ExitCode.STATE_CONFLICT if code == ExitCode.FAILED else code


class EndsTheRecordFirst(Protocol):
    """A launch that gives up records its end while its instance may still go on."""

    def release_claim(self, name: str, run: int, code: ExitCode) -> Steps:
        yield from self.finish_run_record(run, "launch_failed")
        yield from Protocol.release_claim(self, name, run, code)
        return code


class KillsUnasked(Protocol):
    """`kill --now` frees the environment without a word to the run."""

    def ask_to_stop(
        self,
        name: str,
        held: int,
        runs: tuple[int, ...],
        numbers: tuple[int, ...],
        unlisted: int | None,
        wait: bool,
    ) -> Steps:
        yield Call("get_state")
        return Goto("make_sure", (name, held, runs, numbers, unlisted))

    def _mark(self, name: str, held: int) -> Steps:
        return (yield from self.read_state())


class OverwritesEnds(Protocol):
    """A record's end is written over."""

    def finish_run_record(self, run: int, outcome: str) -> Steps:
        record = yield from retry_with_backoff(Call("get_record", (run,)))
        if record is None or record is FAIL:
            return ExitCode.FAILED
        yield from self._put_text(run, record._replace(outcome=outcome), record)
        return ExitCode.OK


class LooksAtTheClockLate(Protocol):
    """`reap` judges an old reading of the state by a newer clock."""

    def survey(self) -> Steps:
        found = yield from self.holding()
        if found is FAIL:
            return ExitCode.FAILED
        held, word = found
        now = yield Call("now")
        machines = yield from self.machines()
        return ExitCode.FAILED if machines is FAIL else self._decided(now, held, word, machines)


class NeverEnds(Protocol):
    """`reap` frees no claim."""

    def _free(self, held: State) -> Steps:
        yield Call("get_state")
        return OK


class RecordsNothing(Protocol):
    """`reap` frees a claim and leaves its record without an end."""

    def finish_record(self, run: int, killed: bool) -> Steps:
        return (yield from self._ask(Call("get_record", (run,))))


@dataclass(frozen=True)
class Mutant:
    """A broken protocol, a scene that shows it, and a part of the rule that it breaks."""

    protocol: type[Protocol]
    scene: Scene
    rule: str


def _scene(*actors: object, left: Left = Left(), **more: object) -> Scene:  # noqa: B008
    return Scene("", actors, left, left, **more)  # type: ignore[arg-type]


TWO: Final = _scene(LAUNCH_1, LAUNCH_2, guests=False)
RUNNING: Final = run_zero("training", "running")
GIVING_UP: Final = Actor("launch0", "release_claim", ("launch0", 0, ExitCode.LAUNCH_REFUSED))
"""A launch whose instance was refused, and whose claim was killed in between: the next one is another's."""
AFTER_A_KILL: Final = Cloud(
    file=State(1, ("launch1", 1), 0, 0),
    records=((0, Record("launch0", 0, outcome="killed")), (1, Record("launch1", 0))),
    claimed=frozenset({0, 1}),
)
MUTANTS: Final = (
    Mutant(PlainWrite, TWO, "taken over that was not stale"),
    Mutant(PlainDelete, _scene(KILL_NOW, LAUNCH_1, cloud=run_zero("cleanup", "terminated")), "was not told"),
    Mutant(Impatient, TWO, "taken over that was not stale"),
    Mutant(GivesBackAnothers, _scene(GIVING_UP, cloud=AFTER_A_KILL), "gave another's claim back"),
    Mutant(NoToken, _scene(LAUNCHING, left=Left(1), cloud=run_zero()), "two instances"),
    Mutant(GoesOn, _scene(LAUNCHING, left=Left(1), cloud=run_zero()), "two instances"),
    Mutant(NoTable, _scene(KILL_NOW, cloud=run_zero("data_sync", "running")), "data_sync became killed"),
    Mutant(SharedIds, TWO, "gave another.s claim back"),
    Mutant(ForgetsItsNonce, _scene(LAUNCH_1, left=Left(1), guests=False), "record of a run was deleted"),
    Mutant(TakesSilenceForLoss, _scene(LAUNCH_1, left=Left(2), guests=False), "record of a run was deleted"),
    Mutant(EndsTheRecordFirst, _scene(LAUNCHING, left=Left(1), cloud=run_zero()), "went on whose record"),
    Mutant(KillsUnasked, _scene(KILL_NOW, cloud=run_zero("training", "running")), "was not told"),
    Mutant(OverwritesEnds, _scene(TRAINING, KILL, cloud=RUNNING), "recorded end was changed"),
    Mutant(
        LooksAtTheClockLate, _scene(TRAINING, REAP, left=Left(0, 0, 4), cloud=RUNNING), "ended a live run"
    ),
    Mutant(NeverEnds, _scene(LAUNCH_1, guests=False), "a claim is left"),
    Mutant(RecordsNothing, _scene(LAUNCH_1, guests=False), "no record of its end"),
)
