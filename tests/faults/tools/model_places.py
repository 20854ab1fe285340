"""Where in the scripts a step of the model stands: the function it is named after, and the call in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from chronos_ec2.workstation.settings import REPOSITORY

SOURCES: Final = ("shell", "python/chronos_ec2/workstation", "python/chronos_ec2/instance")
WORDS: Final = {
    "get_state": ("get-object", "read_raw", "active_state", "_active(", ".read("),
    "publish": ("copy-object",),
    "drop_state": ("delete-object", "_store.delete"),
    "get_record": ("get-object", "get_bytes", "_read(", "_looked_up("),
    "put_record": ("put-object", "put_json"),
    "create_record": ("put-object",),
    "drop_record": ("delete-object",),
    "reserve": ("put-object",),
    "get_reserved": ("get-object",),
    "drop_reserved": ("delete-object",),
    "run_instances": ("run_instances[@]", "run-instances"),
    "terminate": ("terminate-instances", "terminate_accepted", "terminate_instances"),
    "find": ("describe-instances",),
    "list_live": ("describe-instances", "live_instances"),
    "describe": ("describe-instances",),
    "fate": ("instance_fate",),
    "list_runs": ("list_run_ids",),
    "signal": ("kill -TERM",),
    "power_off": ("power_off",),
    "wait_gone": ("wait_until_gone", "self._look.machines()"),
    "choose_second": ("new_run_id",),
    "choose_work": ("",),
    "choose_switch": ("arm_outside_switch",),
    "now": ("",),
    "reason": ("",),
}
"""What the code says for each call of the model."""

RENAMED: Final = {
    "ask_to_stop": "end_runs",
    "one": "list_runs",
    "phase_work": "run_phase",
    "next_state": "_next_state",
}
"""Functions that the model has split off, or named otherwise."""


def place_of(function: str, call: str) -> str | None:
    """File and line of a call, `shell/kill_training.sh:164`; None when no such function makes it."""
    name = RENAMED.get(function, function)
    for path, number, body in _functions().get(name, ()):
        for offset, line in enumerate(body):
            if any(word in line for word in WORDS[call]):
                return f"{path.relative_to(REPOSITORY)}:{number + offset}"
    return None


@lru_cache(maxsize=1)
def _functions() -> dict[str, list[tuple[Path, int, list[str]]]]:
    found: dict[str, list[tuple[Path, int, list[str]]]] = {}
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in (".sh", ".py"):
                for name, number, body in _functions_of(path):
                    found.setdefault(name, []).append((path, number, body))
    return found


def _functions_of(path: Path) -> Iterator[tuple[str, int, list[str]]]:
    shape = r"()(\w+)\(\) \{" if path.suffix == ".sh" else r"( *)def (\w+)\("
    lines = path.read_text().splitlines()
    found = [(number, match) for number, line in enumerate(lines) if (match := re.match(shape, line))]
    for number, match in found:
        # A function that is defined inside another belongs to it.
        ends = (later for later, other in found if later > number and len(other[1]) <= len(match[1]))
        yield match[2], number + 1, lines[number : next(ends, len(lines))]
