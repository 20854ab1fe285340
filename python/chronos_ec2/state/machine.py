"""Statuses, transitions and the schema of the state file, read from `state_machine.json`.

Bash reads the same file (`shell/lib/state_helpers.sh`), so the two cannot drift.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from chronos_ec2.errors import IllegalTransition, StateUnreadable

_TABLE: Final = json.loads(files(__package__).joinpath("state_machine.json").read_text())
TRANSITIONS: Final[dict[str, list[str]]] = _TABLE["transitions"]
STATUSES: Final = tuple(TRANSITIONS)
SCHEMA_VERSION: Final[int] = _TABLE["schema_version"]
_JSON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "object": (dict,),
    "strings": (list,),
    "null": (type(None),),
}


def is_allowed(current: str, new: str) -> bool:
    """Whether a run may go from `current` to `new`; staying where it is counts as allowed.

    An update that keeps the status (a heartbeat, a new `current_step`) is no transition.
    """
    if current not in TRANSITIONS or new not in TRANSITIONS:
        return False
    return new == current or new in TRANSITIONS[current]


def require_allowed(current: str, new: str) -> None:
    """Raise `IllegalTransition` unless the document's table allows the move."""
    if not is_allowed(current, new):
        allowed = ", ".join(TRANSITIONS.get(current, [])) or "nothing"
        raise IllegalTransition(
            f"status {current!r} may not become {new!r}; from there it may become: {allowed}"
        )


def _check_fields(
    body: Mapping[str, Any], fields: Mapping[str, list[str]], where: str, *, optional: bool = False
) -> None:
    for name, kinds in fields.items():
        if name not in body:
            if optional:
                continue
            raise StateUnreadable(f"state file: {where}{name} is missing")
        allowed = tuple(python_type for kind in kinds for python_type in _JSON_TYPES[kind])
        # bool is an int to Python, not to JSON
        if isinstance(body[name], bool) or not isinstance(body[name], allowed):
            raise StateUnreadable(
                f"state file: {where}{name} is {type(body[name]).__name__}, expected {' or '.join(kinds)}"
            )
        if isinstance(body[name], list) and not all(isinstance(item, str) for item in body[name]):
            raise StateUnreadable(f"state file: {where}{name} holds what is no string, expected strings")
        if isinstance(body[name], float) and not math.isfinite(body[name]):
            raise StateUnreadable(f"state file: {where}{name} is {body[name]}, expected a finite number")


def _check_forms(body: Mapping[str, Any]) -> None:
    """What goes into calls and loops has a form as well as a type."""
    for name, pattern in _TABLE["patterns"].items():
        parent, _, field = name.rpartition(".")
        value = (body[parent] if parent else body).get(field)
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not re.fullmatch(pattern, str(item)):
                raise StateUnreadable(f"state file: {name} is {repr(item)[:80]}, expected {pattern}")


def _check_version(body: Mapping[str, Any]) -> None:
    control = body.get("control")
    version = control.get("schema_version") if isinstance(control, Mapping) else None
    if version is None:
        return
    if isinstance(version, bool) or not isinstance(version, int | float) or version % 1 != 0:
        raise StateUnreadable(f"state file: control.schema_version is {version!r}, expected a whole number")
    if version > SCHEMA_VERSION:
        raise StateUnreadable(
            f"state file: schema {version:g} of a newer version of this project, "
            f"this one knows {SCHEMA_VERSION}: update it"
        )


def validate_state(body: object) -> dict[str, Any]:
    """Check a decoded state file against the schema.

    Fields that are not known are carried along: they may be added without a new version. What changes the
    meaning of a known field raises `control.schema_version` (absent: 1); who does not know it must stop.

    Returns:
        The same mapping, now known to have every field of the document with its type.

    Raises:
        StateUnreadable: a field is missing, has another type, the status is unknown, or a newer version of
            this project has written it.
    """
    if not isinstance(body, dict):
        raise StateUnreadable(f"state file: expected an object, got {type(body).__name__}")
    _check_version(body)
    _check_fields(body, _TABLE["fields"], "")
    for name, fields in _TABLE["nested_fields"].items():
        _check_fields(body[name], fields, f"{name}.")
    for name, fields in _TABLE["optional_fields"].items():
        _check_fields(body[name], fields, f"{name}.", optional=True)
    if body["status"] not in TRANSITIONS:
        raise StateUnreadable(f"state file: unknown status {body['status']!r}; known: {', '.join(STATUSES)}")
    _check_forms(body)
    return body
