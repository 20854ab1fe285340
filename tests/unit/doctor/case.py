"""A case: break one thing, look with one check, compare the line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chronos_ec2.workstation.doctor.findings import Finding, Level

from .world import World


@dataclass(frozen=True)
class Case:
    """One scene.

    Attributes:
        check: the check's name in the round.
        scene: what is broken, in words that end the test's name.
        arrange: breaks it.
        level, text, advice: the line that must come; `text` is a part of it.
        line: which of the check's lines, when it has several.
    """

    check: str
    scene: str
    arrange: Callable[[World], object]
    level: Level
    text: str
    advice: str = ""
    line: int = 0

    def findings(self) -> list[Finding]:
        world = World()
        self.arrange(world)
        return world.examine(self.check)

    def __str__(self) -> str:
        return f"{self.check}, {self.scene}".replace(" ", "-")


def verify(case: Case) -> None:
    """Look, and compare."""
    found = case.findings()[case.line]
    assert (found.level, found.advice) == (case.level, case.advice), found
    assert case.text in found.text


def as_is(_: World) -> None:
    """All is well."""
