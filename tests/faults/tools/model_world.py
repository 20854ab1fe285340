"""The model's programs and the cloud they act on, as one value; how calls can end, and what nature does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from tools import model_reap
from tools.model_cloud import (
    CAPACITY,
    FAIL,
    LATE,
    LOCAL,
    LOST,
    OK,
    READS,
    REFUSED,
    WRITES,
    Cloud,
    State,
    ticked,
)
from tools.model_steps import Call

_READS: Final = READS | {"fate": model_reap.fate}


class Actor(NamedTuple):
    """A program: the stage it is in, and the answers it has had there."""

    name: str
    stage: str
    arguments: tuple[Any, ...] = ()
    heard: tuple[Any, ...] = ()


class Left(NamedTuple):
    """How much may still go wrong."""

    faults: int = 0
    crashes: int = 0
    ticks: int = 0


class World(NamedTuple):
    """One state of the model."""

    cloud: Cloud
    actors: tuple[Actor, ...]
    left: Left


class Pending(NamedTuple):
    """What a program does next, and the functions it is in.

    Attributes:
        arguments, heard: the first that brought a program to where it is, with the same variables: whatever
            else it has heard, it is the same by now.
    """

    call: Call
    where: tuple[str, ...]
    arguments: tuple[Any, ...]
    heard: tuple[Any, ...]


class Step(NamedTuple):
    """One step: who, in which call (or what befell it), with what answer; and the world after it."""

    actor: str
    what: Pending | str
    answer: Any
    world: World

    def __str__(self) -> str:
        if isinstance(self.what, str):
            return f"{self.actor:8} {self.what}"
        arguments = ", ".join(map(_short, self.what.call.arguments))
        where = " > ".join(self.what.where)
        return f"{self.actor:8} {where}: {self.what.call.name}({arguments}): {_short(self.answer)}"


Way = Callable[[], Step]


def outcomes(world: World, actor: Actor, call: Call) -> Iterator[tuple[Any, int, Cloud]]:
    """How a call can end: its answer, the faults that takes, the cloud after it."""
    before = world.cloud
    if call.name in _READS:
        yield _READS[call.name](before, *call.arguments)[1], 0, before
        yield FAIL, 1, before
    elif call.name in WRITES:
        after, answer = WRITES[call.name](before, *call.arguments)
        yield answer, 0, after
        yield FAIL, 1, before
        if call.name == "run_instances" and after is not before:
            yield REFUSED, 1, before
            yield CAPACITY, 1, before
        if after is not before:
            yield LOST, 1, after
            yield FAIL, 1, after
    elif call.name in LOCAL:
        after, answer = LOCAL[call.name](before, *call.arguments)
        yield answer, 0, after
    elif call.name == "choose_second":
        yield before.second, 0, before
        if any(run == before.second for run, _ in before.reserved):
            yield before.second + 1, 0, before._replace(second=before.second + 1)
    elif call.name == "choose_switch":
        yield "armed", 0, before
        yield "broken", 1, before
    elif call.name == "choose_work":
        yield from _turns(before, actor, call)
    elif any(
        machine.number in call.arguments[0] or machine.run in call.arguments[1] for machine in before.live()
    ):
        yield LATE, 0 if call.arguments[2] else 1, before
    else:
        yield OK, 0, before


def _turns(cloud: Cloud, actor: Actor, call: Call) -> Iterator[tuple[Any, int, Cloud]]:
    """What a phase's work can come to; a run that is told to stop works no more."""
    if cloud.machines[actor.arguments[0]].reason:
        return
    yield "done", 0, cloud
    yield "broken", 1, cloud
    (may_beat,) = call.arguments
    if may_beat and cloud.file is not None and cloud.file.heard < cloud.now:
        yield "beat", 0, cloud


def of_nature(world: World) -> Iterator[Way]:
    cloud = world.cloud
    for machine in cloud.machines:
        if not machine.shown:
            shown = cloud.with_machine(machine._replace(shown=True))
            yield partial(Step, "EC2", f"shows instance {machine.number}", None, world._replace(cloud=shown))
        if machine.power == "shutting" and not _inhabited(world, machine.number):
            yield partial(powered, world, "EC2", machine.number, "terminated")
    if world.left.ticks:
        later = world._replace(cloud=ticked(cloud), left=less(world.left, ticks=1))
        yield partial(Step, "clock", f"{cloud.now + 1}", None, later)


def powered(world: World, who: str, number: int, power: str) -> Step:
    machine = world.cloud.machines[number]._replace(power=power)
    cloud = world.cloud.with_machine(machine)
    return Step(who, f"the machine is {power}", None, world._replace(cloud=cloud))


def less(left: Left, crashes: int = 0, ticks: int = 0) -> Left:
    return left._replace(crashes=left.crashes - crashes, ticks=left.ticks - ticks)


def without(world: World, name: str) -> World:
    return world._replace(actors=tuple(actor for actor in world.actors if actor.name != name))


def _inhabited(world: World, number: int) -> bool:
    return any(actor.name == f"boot{number}" for actor in world.actors)


def _short(value: Any) -> str:
    """A state in a few words."""
    if not isinstance(value, State):
        return str(value)
    return f"run {value.run} at {value.status}, revision {value.revision} by {value.writer[0]}"
