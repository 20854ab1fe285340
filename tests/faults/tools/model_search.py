"""Goes through the model's worlds, all of them or at random; a broken rule is told with the way to it."""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.model_cloud import Cloud, Machine, ticked
from tools.model_explorer import Explorer
from tools.model_rules import Violation, check_quiet
from tools.model_world import Actor, Left, World

LATE_TICKS = 20
"""Past every deadline, patience and staleness."""


@dataclass
class Search:
    """A search and its counts.

    Attributes:
        worlds: distinct worlds that were reached.
        steps: steps that were made and checked.
        complete: whether nothing was left out.
    """

    explorer: Explorer
    worlds: int = 0
    steps: int = 0
    complete: bool = True
    _clouds: set[Cloud] = field(default_factory=set)
    _quiet: set[Cloud] = field(default_factory=set)

    def exhaust(self, first: World, limit: int) -> None:
        """Every world that can be reached, breadth first, up to a number of them.

        Raises:
            AssertionError: a rule is broken; with the shortest way to it.
        """
        seen = {hash(first)}
        parents, ways = array("q", [-1]), array("H", [0])
        waiting = deque([(0, first)])
        self.worlds += 1
        while waiting:
            index, world = waiting.popleft()
            try:
                self._check_end_of_all(world.cloud)
                for way, make in enumerate(self.explorer.ways(world)):
                    step = make()
                    self.steps += 1
                    mark = hash(step.world)
                    if mark in seen:
                        continue
                    if len(seen) >= limit:
                        self.complete = False
                        continue
                    seen.add(mark)
                    waiting.append((len(parents), step.world))
                    parents.append(index)
                    ways.append(way)
                    self.worlds += 1
            except Violation as broken:
                path = [(None, way) for way in _path(parents, ways, index)]
                raise AssertionError(self._story(first, path, broken)) from None

    def walk(self, first: World, chance: random.Random, length: int) -> None:
        """One way through the worlds, at random; what goes wrong goes wrong now and then.

        Raises:
            AssertionError: a rule is broken; with the way to it.
        """
        world, path = first, list[tuple[Left, int]]()
        try:
            for _ in range(length):
                self._check_end_of_all(world.cloud)
                allowed = _allowed(world.left, chance)
                ways = list(self.explorer.ways(world._replace(left=allowed)))
                if not ways:
                    if allowed == world.left:
                        break
                    continue
                path.append((allowed, chance.randrange(len(ways))))
                after = ways[path[-1][1]]().world
                spent = (had - has for had, has in zip(allowed, after.left, strict=True))
                left = Left(*(had - gone for had, gone in zip(world.left, spent, strict=True)))
                world = after._replace(left=left)
                self.steps += 1
                self.worlds += 1
        except Violation as broken:
            raise AssertionError(self._story(first, path, broken)) from None

    def _check_end_of_all(self, cloud: Cloud) -> None:
        """Every program stops here, time passes, `reap` runs: then nothing may be left."""
        if cloud in self._clouds:
            return
        self._clouds.add(cloud)
        bare = _bare(cloud)
        if bare in self._quiet:
            return
        self._quiet.add(bare)
        machines = tuple(_settled(machine) for machine in cloud.machines)
        cloud = ticked(cloud._replace(now=cloud.now + LATE_TICKS, machines=machines))
        world = self.explorer.begin(cloud, (Actor("reap_late", "survey"),), Left())
        while world.actors:
            world = next(self.explorer.ways(world))().world
        check_quiet(world.cloud)

    def _story(self, first: World, path: Sequence[tuple[Left | None, int]], broken: Violation) -> str:
        lines, world = ["a rule is broken:"], first
        for allowed, way in path:
            try:
                step = list(self.explorer.ways(world._replace(left=allowed or world.left)))[way]()
            except Violation:
                break
            lines.append(f"  {step}")
            world = step.world
        return "\n".join([*lines, f"  {broken}", f"  from {world.cloud}"])


def _allowed(left: Left, chance: random.Random) -> Left:
    """What may go wrong in the next step: mostly nothing."""
    if chance.random() < 0.1:
        return left
    return Left(ticks=left.ticks if chance.random() < 0.3 else 0)


def _path(parents: array[int], ways: array[int], index: int) -> list[int]:
    path: list[int] = []
    while index > 0:
        path.append(ways[index])
        index = parents[index]
    return path[::-1]


def _settled(machine: Machine) -> Machine:
    return machine._replace(power="terminated") if machine.power == "shutting" else machine


def _bare(cloud: Cloud) -> Cloud:
    """Without what cannot matter once every program has stopped."""
    if cloud.file is not None:
        cloud = cloud._replace(file=cloud.file._replace(writer=("", 0), revision=1))
    records = tuple((run, record._replace(author="")) for run, record in cloud.records)
    return cloud._replace(records=records, reserved=(), second=0)
