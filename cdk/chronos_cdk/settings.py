"""The stack's settings: what CDK context may hold, its defaults and its limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
# Shared by all environments; as an environment's name they would open those prefixes to its runs.
RESERVED_PREFIXES = frozenset({"cached-datasets", "logs"})
DEFAULT_ENVIRONMENTS = "dev,prod"
EMAIL = re.compile(r"[^@\s,;<>\"']+@[^@\s,;<>\"']+\.[^@\s,;<>\"']+")
INSTANCE_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")
MOST_NODES = 64
LONGEST_ALARM_HOURS = 168  # CloudWatch looks back seven days at most


class ContextError(ValueError):
    """A CDK context value cannot be used; the message says which, why, and what to pass."""


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """What one deployment of the stack is made from.

    Attributes:
        environments: Environments whose `{env}/` prefix in the bucket the instances may write.
        availability_zones: Number of AZs, each with one (free) public subnet; launches use the first.
        log_retention_days: Age in days at which logs are deleted.
        glacier_after_days: Age in days at which models move to Glacier.
        notify_email: Address that is sent the notices; empty: nobody.
        alarm_hours: Hours that a machine may live before an alarm says so; 0: no alarm.
        instance_types: The types that the alarms watch, one alarm each.
        nodes: Machines that a run may have; more than one need a network among themselves.
    """

    environments: tuple[str, ...] = ("dev", "prod")
    availability_zones: int = 1
    log_retention_days: int = 14
    glacier_after_days: int = 90
    notify_email: str = ""
    alarm_hours: int = 0
    instance_types: tuple[str, ...] = ()
    nodes: int = 1

    @classmethod
    def from_context(cls, get: Callable[[str], Any]) -> StackSettings:
        """Read and check the context.

        Args:
            get: Looks one context key up; None where it is not set.

        Raises:
            ContextError: A value is of the wrong type or out of range.
        """
        alarm_hours = _whole_number(get, "alarm_hours", default=0, low=0, high=LONGEST_ALARM_HOURS)
        return cls(
            environments=_environments(get("environments")),
            availability_zones=_whole_number(get, "availability_zones", default=1, low=1, high=6),
            log_retention_days=_whole_number(get, "log_retention_days", default=14, low=1, high=3650),
            glacier_after_days=_whole_number(get, "glacier_after_days", default=90, low=1, high=3650),
            notify_email=_email(get("notify_email")),
            alarm_hours=alarm_hours,
            instance_types=_instance_types(get("instance_types"), needed=alarm_hours > 0),
            nodes=_whole_number(get, "nodes", default=1, low=1, high=MOST_NODES),
        )


def _words(value: Any) -> list[str]:
    """A list from cdk.json, or the comma list that -c gives."""
    words = value if isinstance(value, list) else str(value).split(",")
    return [str(word).strip() for word in words]


def _environments(value: Any) -> tuple[str, ...]:
    names = _words(DEFAULT_ENVIRONMENTS if value is None else value)
    for name in names or [""]:
        if not ENVIRONMENT_NAME.fullmatch(name):
            raise ContextError(
                f"context environments: {name!r} is not an environment name (a lower-case letter, then up to "
                "31 lower-case letters, digits or hyphens); pass for example -c environments=dev,prod"
            )
        if name in RESERVED_PREFIXES:
            raise ContextError(
                f"context environments: {name!r} is a prefix that all environments share; choose another name"
            )
    return tuple(dict.fromkeys(names))


def _email(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if text and not EMAIL.fullmatch(text):
        raise ContextError(
            f"context notify_email: {text!r} is not an e-mail address; "
            "pass for example -c notify_email=me@example.com, or leave it out"
        )
    return text


def _instance_types(value: Any, *, needed: bool) -> tuple[str, ...]:
    names = [] if value is None or value == "" else _words(value)
    for name in names:
        if not INSTANCE_TYPE.fullmatch(name):
            raise ContextError(
                f"context instance_types: {name!r} is not an instance type; "
                "pass for example -c instance_types=g4dn.2xlarge,g5.2xlarge"
            )
    if needed and not names:
        raise ContextError(
            "context instance_types: alarms need the types that they watch; "
            "pass for example -c instance_types=g4dn.2xlarge,g5.2xlarge"
        )
    return tuple(dict.fromkeys(names))


def _whole_number(get: Callable[[str], Any], key: str, *, default: int, low: int, high: int) -> int:
    value = get(key)
    if value is None:
        return default
    # -c gives strings, cdk.json gives numbers; str(True) and str(1.5) fail the pattern as they should.
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ContextError(
            f"context {key}: {value!r} is not a whole number from {low} to {high}; "
            f"pass for example -c {key}={default}"
        )
    return int(text)
