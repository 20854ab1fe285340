"""What a check finds: ok, warning or error, in one line, with what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: with a warning a launch works, with an error it does not."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        text: what was found.
        advice: the command (or, where there is none, the deed) that mends it; empty when all is well.
    """

    level: Level
    text: str
    advice: str = ""

    def __post_init__(self) -> None:
        if (self.level is Level.OK) == bool(self.advice):
            raise ValueError(f"advice goes with a warning or an error, and only there: {self}")


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, text)


def warning(text: str, advice: str) -> Finding:
    """A launch works, but not as well as it could, or something else will not."""
    return Finding(Level.WARNING, text, advice)


def error(text: str, advice: str) -> Finding:
    """A launch would fail, or cost more than it should."""
    return Finding(Level.ERROR, text, advice)
