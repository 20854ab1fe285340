"""Where the model begins: what is there already, who acts, and how much may go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tools.model_cloud import Cloud, Machine, Record, State
from tools.model_explorer import Explorer, Protocol
from tools.model_world import Actor, Left, World

LAUNCH_1: Final = Actor("launch1", "launch", ("launch1",))
LAUNCH_2: Final = Actor("launch2", "launch", ("launch2",))
KILL: Final = Actor("kill1", "kill", ("kill1", True))
KILL_NOW: Final = Actor("kill2", "kill", ("kill2", False))
REAP: Final = Actor("reap1", "survey")
EVERYBODY: Final = (LAUNCH_1, LAUNCH_2, KILL, KILL_NOW, REAP)
LAUNCHING: Final = Actor("launch0", "start_instance", ("launch0", 0, 0))
TRAINING: Final = Actor("boot0", "phase_training", (0, 0, 2, None))
SAVING: Final = Actor("boot0", "phase_work", (0, 0, 3, None))
WATCHING: Final = Actor("watch0", "watch_for_kill", (0, 0))


def run_zero(status: str = "initialization", power: str | None = None, *, shown: bool = True) -> Cloud:
    """An environment that the first run holds, with an instance in some state of power or without one."""
    instance = None if power is None else 0
    return Cloud(
        file=State(0, ("i0", 4), 0, 0, status, instance, 4),
        records=((0, Record("launch0", 0, instance)),),
        reserved=((0, "launch0"),),
        machines=() if power is None else (Machine(0, 0, 0, 0, power, shown),),
        second=1,
        claimed=frozenset({0}),
    )


@dataclass(frozen=True)
class Scene:
    """A beginning.

    Attributes:
        left: what may go wrong in the short form; `full_left` in the full one.
        guests: whether instances run their program, and whether with their watch for a kill.
    """

    name: str
    actors: tuple[Actor, ...]
    left: Left
    full_left: Left
    cloud: Cloud = Cloud()  # noqa: RUF009
    guests: bool = True
    companions: bool = False

    def explorer(self, protocol: Protocol | None = None) -> Explorer:
        """An explorer of it."""
        return Explorer(protocol, guests=self.guests, companions=self.companions)

    def begin(self, explorer: Explorer, *, full: bool) -> World:
        """The first world."""
        return explorer.begin(self.cloud, self.actors, self.full_left if full else self.left)


SCENES: Final = (
    Scene("one launch", (LAUNCH_1,), Left(1, 1, 1), Left(2, 2, 3)),
    Scene("two launches", (LAUNCH_1, LAUNCH_2), Left(1), Left(2, 1, 3), guests=False),
    Scene(
        *("two launches on a stale claim", (LAUNCH_1, LAUNCH_2), Left(0, 1), Left(2, 1, 1)),
        *(run_zero("training", "terminated"), False),
    ),
    Scene("launch and kill", (LAUNCH_1, KILL_NOW), Left(0, 0, 1), Left(1, 1, 2)),
    Scene("launch and reap", (LAUNCH_1, REAP), Left(0, 0, 4), Left(1, 1, 8)),
    Scene("kill of a launch", (LAUNCHING, KILL), Left(1), Left(2, 1, 2), run_zero(), companions=True),
    Scene(
        "kill of a training",
        (TRAINING, WATCHING, KILL),
        Left(1),
        Left(2, 1, 3),
        run_zero("training", "running"),
    ),
    Scene(
        *("two kills of a training", (TRAINING, KILL, KILL_NOW), Left(0), Left(1, 1, 1)),
        run_zero("training", "running"),
    ),
    Scene(
        *("reap of a training", (TRAINING, WATCHING, REAP), Left(0, 0, 7), Left(1, 1, 9)),
        run_zero("training", "running"),
    ),
    Scene(
        *("launch beside a finish", (SAVING, LAUNCH_1), Left(0, 1), Left(1, 1, 4)),
        run_zero("results_sync", "running"),
    ),
    Scene("everybody", EVERYBODY, Left(0), Left(1, 1, 4), companions=True),
)
