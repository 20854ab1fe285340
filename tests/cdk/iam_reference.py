"""Policies held against IAM's own service data: what AWS would not accept, or would never apply.

The data are AWS's service authorization reference as policy_sentry brings it: for every action the kinds of
resources that it can be limited to, and the condition keys that it knows, alone or for a kind of resource.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policy_sentry.shared.iam_data import get_service_prefix_data

# Keys that every request has or may have. aws:ResourceTag, aws:RequestTag and aws:TagKeys are not among them:
# only some actions know those.
GLOBAL_KEYS: Final = frozenset(
    f"aws:{name}".lower()
    for name in (
        *("SourceAccount", "SourceArn", "SecureTransport", "RequestedRegion"),
        *("PrincipalArn", "PrincipalAccount", "PrincipalIsAWSService"),
    )
)
# What may hold more than one part of an ARN.
_LONG: Final = {
    "ObjectName",
    "RoleNameWithPath",
    "InstanceProfileNameWithPath",
    "ParameterNameWithoutLeadingSlash",
}
_OPERATORS: Final = {
    "String": ("StringEquals", "StringNotEquals", "StringLike", "StringNotLike"),
    "ARN": ("ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike", "StringEquals", "StringLike"),
    "Bool": ("Bool",),
    "ArrayOfString": ("ForAllValues:StringEquals", "ForAnyValue:StringEquals", "ForAllValues:StringLike"),
    "Numeric": ("NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan", "NumericEquals"),
}


@dataclass(frozen=True)
class Action:
    """One action of the reference."""

    name: str
    kinds: Mapping[str, frozenset[str]]
    own_keys: frozenset[str]
    formats: Mapping[str, str]
    key_types: Mapping[str, str]

    def fitting(self, resource: str) -> list[str]:
        """The kinds of resources that an ARN (or a pattern of one) can mean to this action."""
        return [kind for kind in self.kinds if _pattern(self.formats[kind]).fullmatch(resource)]


def look_up(name: str) -> Action | None:
    """An action by its name; None when IAM knows none."""
    service, _, verb = name.partition(":")
    data = get_service_prefix_data(service)
    found = (data or {}).get("privileges", {}).get(verb)
    if found is None:
        return None
    keys = {
        kind: frozenset(_stem(key) for key in one["condition_keys"])
        for kind, one in found["resource_types"].items()
    }
    resources = data["resources"]
    # EC2 lists an action's keys for each kind; other services leave that to the kind's own list.
    kinds = {
        kind: own or frozenset(_stem(key) for key in resources[kind]["condition_keys"])
        for kind, own in keys.items()
        if kind
    }
    formats = {kind: resources[kind]["arn"] for kind in kinds}
    types = {_stem(key): one["type"] for key, one in data["conditions"].items()}
    return Action(name, kinds, keys.get("", frozenset()), formats, types)


_BEYOND: Final = {("ec2:RunInstances", "spot-instances-request")}
"""What IAM's reference leaves out. The EC2 user guide, on tagging spot requests: who tags one on create must
have it among the resources of an allow statement for RunInstances, without a condition, or the call fails."""


def _beyond(action: str, resource: str) -> set[str]:
    kind = resource.rpartition(":")[2].partition("/")[0]
    return {kind} if (action, kind) in _BEYOND else set()


def problems(statement: Mapping[str, Any], wildcards: Collection[str]) -> Iterator[str]:
    """What is wrong with a statement of an identity policy, in words.

    Args:
        statement: with its references resolved, Action and Resource as lists.
        wildcards: the actions that may be allowed on "*".
    """
    resources = list(statement["Resource"])
    fitted: set[str] = set()
    for name in statement["Action"]:
        action = look_up(name)
        if action is None:
            yield f"{name}: IAM knows no such action"
            continue
        if "*" in resources and name not in wildcards:
            yield f"{name}: on every resource, and is not listed"
        fitting = {resource: action.fitting(resource) or _beyond(name, resource) for resource in resources}
        fitted |= {resource for resource, kinds in fitting.items() if kinds}
        kinds = {kind for found in fitting.values() for kind in found}
        if not kinds and "*" not in resources:
            yield f"{name}: is never asked for on {', '.join(resources)}; use {_formats(action)}"
        yield from _condition_problems(action, kinds, statement.get("Condition", {}))
    yield from (f"{one}: no action here is for it" for one in resources if one != "*" and one not in fitted)


def _condition_problems(action: Action, kinds: set[str], conditions: Mapping[str, Any]) -> Iterator[str]:
    for operator, tests in conditions.items():
        for key in tests:
            stem = _stem(key)
            if stem in GLOBAL_KEYS:
                continue
            unaware = [kind for kind in sorted(kinds) if stem not in action.kinds[kind]]
            if stem not in action.own_keys and (unaware or not kinds):
                yield f"{action.name}: ignores {key}" + (f" for {', '.join(unaware)}" if unaware else "")
                continue
            kind_of_key = action.key_types.get(stem, "String")
            if operator.removesuffix("IfExists") not in _OPERATORS.get(kind_of_key, ()):
                yield f"{action.name}: {key} is of type {kind_of_key}, {operator} is not for it"


def _formats(action: Action) -> str:
    return ", ".join(sorted(action.formats.values())) or "*"


def _stem(key: str) -> str:
    """A key without the name of the tag that follows it."""
    head, slash, _ = key.partition("/")
    return f"{head}{slash}".lower()


def _pattern(arn_format: str) -> re.Pattern[str]:
    parts = re.split(r"\$\{(\w+)\}", arn_format)
    texts = (
        re.escape(part) if index % 2 == 0 else ".+" if part in _LONG else "[^:/]*"
        for index, part in enumerate(parts)
    )
    return re.compile("".join(texts))
