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
    """

    environments: tuple[str, ...] = ("dev", "prod")
    availability_zones: int = 1
    log_retention_days: int = 14
    glacier_after_days: int = 90

    @classmethod
    def from_context(cls, get: Callable[[str], Any]) -> StackSettings:
        """Read and check the context.

        Args:
            get: Looks one context key up; None where it is not set.

        Raises:
            ContextError: A value is of the wrong type or out of range.
        """
        return cls(
            environments=_environments(get("environments")),
            availability_zones=_whole_number(get, "availability_zones", default=1, low=1, high=6),
            log_retention_days=_whole_number(get, "log_retention_days", default=14, low=1, high=3650),
            glacier_after_days=_whole_number(get, "glacier_after_days", default=90, low=1, high=3650),
        )


def _environments(value: Any) -> tuple[str, ...]:
    words = (
        value if isinstance(value, list) else str(DEFAULT_ENVIRONMENTS if value is None else value).split(",")
    )
    names = [str(word).strip() for word in words]
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
