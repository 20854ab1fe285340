"""Knows what can happen next in a world of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

from chronos_ec2.exit_codes import ExitCode
from tools.model_cloud import LOCAL, Cloud
from tools.model_instance import Instance
from tools.model_kill import Kill
from tools.model_reap import Reap
from tools.model_rules import Violation, check_end, check_step, check_workers
from tools.model_steps import Goto, frames
from tools.model_world import (
    Actor,
    Left,
    Pending,
    Step,
    Way,
    World,
    less,
    of_nature,
    outcomes,
    powered,
    without,
)

AT_ONCE: Final = frozenset({"now", "reason"})
PASSING: Final = frozenset({"retry_with_backoff", "_ask"})
WORK: Final = frozenset({"phase_work", "phase_training"})
BOOTING: Final = WORK | {"run_phase"}


class Protocol(Kill, Instance, Reap):
    """Every program, as the scripts are."""


class Explorer:
    """Knows what can happen next.

    Args:
        protocol: the programs; a mutant to see the rules fail.
        guests: whether instances run their program.
        companions: whether they have their watch for a kill beside it.
    """

    def __init__(
        self, protocol: Protocol | None = None, *, guests: bool = True, companions: bool = True
    ) -> None:
        self._protocol = protocol or Protocol()
        self._guests = guests
        self._companions = companions
        self._known: dict[tuple[str, tuple[Any, ...], tuple[Any, ...]], Pending | Goto | ExitCode] = {}
        self._same: dict[Any, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
        self.places: set[tuple[str, str]] = set()

    def begin(self, cloud: Cloud, actors: Iterable[Actor], left: Left) -> World:
        """A first state."""
        settled = [found for actor in actors if (found := self._settled(cloud, actor)) is not None]
        return World(cloud, tuple(sorted(settled)), left)

    # -- programs ---------------------------------------------------------------------------------

    def pending(self, actor: Actor) -> Pending | Goto | ExitCode:
        """What a program does next."""
        key = (actor.stage, actor.arguments, actor.heard)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._replay(actor)
        return known

    def _replay(self, actor: Actor) -> Pending | Goto | ExitCode:
        steps = getattr(self._protocol, actor.stage)(*actor.arguments)
        try:
            call = next(steps)
            for answer in actor.heard:
                call = steps.send(answer)
        except StopIteration as end:
            found: Goto | ExitCode = end.value
            return found
        inside = tuple(frames(steps))
        where = tuple(name for name, _, _ in inside if name not in PASSING)
        self.places.add((where[-1], call.name))
        same = self._same.setdefault((actor.stage, inside), (actor.arguments, actor.heard))
        return Pending(call, where, *same)

    def _settled(self, cloud: Cloud, actor: Actor) -> Actor | None:
        """A program at its next step that others can come before; None when it has ended."""
        while True:
            pending = self.pending(actor)
            if isinstance(pending, Goto):
                actor = Actor(actor.name, pending.stage, pending.arguments)
            elif isinstance(pending, ExitCode):
                check_end(cloud, actor.name, actor.stage, actor.arguments, pending)
                return None
            elif pending.call.name in AT_ONCE:
                actor = _told(actor, LOCAL[pending.call.name](cloud, *pending.call.arguments)[1])
            else:
                return Actor(actor.name, actor.stage, pending.arguments, pending.heard)

    # -- steps ------------------------------------------------------------------------------------

    def ways(self, world: World) -> Iterator[Way]:
        """Everything that can happen next; a way that is called makes the step.

        A way raises `Violation` when its step breaks a rule.
        """
        for index, actor in enumerate(world.actors):
            pending = self.pending(actor)
            assert isinstance(pending, Pending)
            for answer, faults, after in outcomes(world, actor, pending.call):
                if faults <= world.left.faults:
                    yield partial(self._step, world, index, pending, answer, faults, after)
            yield from self._of_fate(world, actor)
        yield from of_nature(world)

    def _step(
        self, world: World, index: int, pending: Pending, answer: Any, faults: int, after: Cloud
    ) -> Step:
        before, actors, left = world
        actor = actors[index]
        try:
            if after is not before:
                check_step(before, actor.name, after)
            settled = self._settled(after, _told(actor, answer))
            actors = (*actors[:index], *([] if settled is None else [settled]), *actors[index + 1 :])
            if len(after.machines) > len(before.machines):
                actors = self._booted(after, actors)
            if len(after.machines) > 1:
                check_workers(after, _at_work(actors))
        except Violation as broken:
            raise Violation(f"{Step(actor.name, pending, answer, world)}\n  {broken}") from None
        if faults:
            left = Left(left.faults - faults, left.crashes, left.ticks)
        return Step(actor.name, pending, answer, World(after, actors, left))

    def _booted(self, cloud: Cloud, actors: tuple[Actor, ...]) -> tuple[Actor, ...]:
        machine = cloud.machines[-1]
        number, run = machine.number, machine.run
        born = []
        if self._guests:
            born.append(Actor(f"boot{number}", "run_phase", (number, run, 0, None)))
        if self._guests and self._companions:
            born.append(Actor(f"watch{number}", "watch_for_kill", (number, run)))
        settled = [found for actor in born if (found := self._settled(cloud, actor)) is not None]
        return tuple(sorted((*actors, *settled)))

    def _interrupt(self, world: World, actor: Actor, handler: Goto) -> Step:
        """SIGTERM: a program goes on in its handler."""
        bare = without(world, actor.name)
        settled = self._settled(world.cloud, Actor(actor.name, handler.stage, handler.arguments))
        assert settled is not None
        return Step(actor.name, "SIGTERM", None, bare._replace(actors=tuple(sorted((*bare.actors, settled)))))

    # -- what befalls programs --------------------------------------------------------------------

    def _of_fate(self, world: World, actor: Actor) -> Iterator[Way]:
        if actor.name.startswith("boot"):
            yield from self._of_machine(world, actor)
        elif world.left.crashes and not actor.name.startswith("watch"):
            left = less(world.left, crashes=1)
            yield partial(Step, actor.name, "SIGKILL", None, without(world, actor.name)._replace(left=left))
            handler = _handler(actor)
            if handler is not None:
                yield partial(self._interrupt, world._replace(left=left), actor, handler)

    def _of_machine(self, world: World, actor: Actor) -> Iterator[Way]:
        number = int(actor.name[4:])
        machine = world.cloud.machines[number]
        if actor.stage in BOOTING and (machine.reason or machine.power == "shutting"):
            handler = Goto("on_exit", (number, machine.run, ExitCode.TERMINATED, actor.arguments[2]))
            yield partial(self._interrupt, world, actor, handler)
        if machine.power == "shutting":
            yield partial(powered, _emptied(world, number), "EC2", number, "terminated")
        elif world.left.crashes:
            bare = _emptied(world, number)._replace(left=less(world.left, crashes=1))
            booted = actor.arguments[2] > 0 or actor.stage != "run_phase" or actor.heard
            for power in ("running", "shutting", "terminated" if booted else "stillborn"):
                yield partial(powered, bare, f"{actor.name} SIGKILL", number, power)


def _handler(actor: Actor) -> Goto | None:
    """Where a launch goes on when it is told to stop."""
    if actor.stage in ("write_launch_files", "look_again"):
        return Goto("withdraw", (actor.arguments[1], ExitCode.TERMINATED))
    if actor.stage in ("claim", "settle_stale_run", "start_instance"):
        return Goto("release_claim", (actor.name, actor.arguments[1], ExitCode.TERMINATED))
    return None


def _emptied(world: World, number: int) -> World:
    return without(without(world, f"boot{number}"), f"watch{number}")


def _at_work(actors: Iterable[Actor]) -> Iterator[int]:
    """Numbers of the machines whose program has passed its check of the state and not stopped since."""
    return (actor.arguments[0] for actor in actors if actor.stage in WORK)


def _told(actor: Actor, answer: Any) -> Actor:
    return Actor(actor.name, actor.stage, actor.arguments, (*actor.heard, answer))
