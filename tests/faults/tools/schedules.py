"""Random schedules of real programs: each behind its own proxy, held at its writes, let go by chance.

What is left to chance comes from one seed: which of the held requests goes on, who is stopped with SIGKILL
there, which answers break. What a program does between two writes is its own, and takes its own time.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol

from tools.fault_proxy import KINDS, FaultProxy, Held, Request
from tools.lab import Lab
from tools.programs import Ended

CONDITIONAL: Final = frozenset({"CopyObject state", "DeleteObject state", "PutObject run.json"})
"""S3 answers 409 and 412 to requests with a condition alone."""
WRITES: Final = CONDITIONAL | {"DeleteObject run.json", "RunInstances", "TerminateInstances", "PutObject log"}
SETTLE_SECONDS: Final = 0.5
GATHER_SECONDS: Final = 60.0
"""All come to their first write before the first of them goes on."""
PATIENCE_SECONDS: Final = 240.0


class Program(Protocol):
    """What is run: a process, or a thread that stands for one."""

    def over(self) -> bool:
        """Whether it has ended."""

    def kill(self) -> None:
        """Stop it at once."""

    def wait(self, seconds: float = 300.0) -> Ended:
        """Its end."""


Start = Callable[[Lab, str], Program]
Cast = dict[str, Start]


@dataclass
class Player:
    """One program of a schedule, its proxy, and what became of it."""

    name: str
    proxy: FaultProxy
    program: Program
    held: Held | None = None
    killed: bool = False
    ended: Ended | None = None

    def asked(self, operation: str) -> bool:
        """Whether it made a call."""
        return any(request.operation.name == operation for request in self.proxy.seen)


@dataclass
class Schedule:
    """One schedule.

    Args:
        seed: everything that is left to chance.
        breaks: how many answers break at most, of all programs together.
        kills: how many programs are stopped at most.
    """

    lab: Lab
    seed: int
    breaks: int = 3
    kills: int = 1
    story: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def play(self, cast: Cast, look: Callable[[], Cast]) -> list[Player]:
        """Run them all to their ends.

        Args:
            look: called between two steps: checks what must hold at any time; returns who comes on now.
        """
        with ExitStack() as stack:
            players = [self._enter(stack, name, start) for name, start in cast.items()]
            end = time.monotonic() + PATIENCE_SECONDS
            seconds = GATHER_SECONDS
            while waiting := list(self._held(players, seconds, end)):
                seconds = SETTLE_SECONDS
                self._let_one_go(self._chance.choice(waiting))
                players += [self._enter(stack, name, start) for name, start in look().items()]
            for player in players:
                player.ended = player.program.wait()
        return players

    def _enter(self, stack: ExitStack, name: str, start: Start) -> Player:
        proxy = stack.enter_context(self.lab.proxy(self._fault(name)))
        proxy.hold(lambda request: str(request.operation) in WRITES, once=False)
        return Player(name, proxy, start(self.lab, proxy.url))

    def _fault(self, name: str) -> Callable[[Request], str | None]:
        chance = random.Random(f"{self.seed} {name}")

        def fault(request: Request) -> str | None:
            kind = chance.choice(KINDS) if chance.random() < 0.04 else None
            fits = kind not in ("409", "412") or str(request.operation) in CONDITIONAL
            if kind is None or not fits or self.breaks == 0:
                return None
            self.breaks -= 1
            self.story.append(f"{name}: {request.operation}, answer {kind}")
            self.counts["answers broken"] += 1
            return kind

        return fault

    def _held(self, players: list[Player], seconds: float, end: float) -> Iterator[Player]:
        """Who waits at a write, once everybody does, has ended, or takes its time elsewhere."""
        patience = time.monotonic() + seconds
        while True:
            open_ones = [player for player in players if not player.program.over()]
            for player in open_ones:
                player.held = player.held or player.proxy.wait_held(0)
            waiting = [player for player in open_ones if player.held is not None]
            late = bool(waiting) and time.monotonic() > patience
            ready = len(waiting) == len(open_ones) or late
            if ready or time.monotonic() > end:
                yield from waiting
                return
            time.sleep(0.01)

    def _let_one_go(self, player: Player) -> None:
        held, player.held = player.held, None
        assert held is not None
        self.counts["steps"] += 1
        if self.kills and self._chance.random() < 0.05:
            self.kills -= 1
            self.counts["programs killed"] += 1
            self.story.append(f"{player.name}: {held.request.operation}, SIGKILL")
            player.killed = True
            player.program.kill()
            held.drop()
        else:
            self.story.append(f"{player.name}: {held.request.operation}")
            held.release()
