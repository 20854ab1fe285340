"""Whether identity policies allow one action on one resource.

As IAM does: no matching Allow means no, and any matching Deny means no, whatever allows. A condition whose
key the request does not have is not met, except by a negated operator, `Null` or `...IfExists`. An operator
that is not known here never lets an Allow match and always lets a Deny match: ignorance only ever refuses.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a call needs.

    Attributes:
        action: "service:Action".
        resource: an ARN, or "*" for an action that knows no resources.
        context: the values of the condition keys that the request has; keys in lower case.
    """

    action: str
    resource: str = "*"
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def allowed(documents: Iterable[Document], question: Question) -> bool:
    """Whether the policies of an identity, together, allow it."""
    granted = False
    for document in documents:
        for statement in _listed(document["Statement"]):
            denies = statement["Effect"] == "Deny"
            if _applies(statement, question, unknown=denies):
                if denies:
                    return False
                granted = True
    return granted


@functools.lru_cache(maxsize=512)
def parsed(document: str) -> Document:
    """A policy's text as a document."""
    found: Document = json.loads(document)
    return found


def _applies(statement: Document, question: Question, *, unknown: bool) -> bool:
    return (
        _named(statement, "Action", question.action, _same_action)
        and _named(statement, "Resource", question.resource, _matches)
        and all(
            _met(operator, key, _texts(wanted), question.context, unknown)
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    )


def _named(statement: Document, element: str, value: str, same: Callable[[str, str], bool]) -> bool:
    if f"Not{element}" in statement:
        return not any(same(pattern, value) for pattern in _listed(statement[f"Not{element}"]))
    return any(same(pattern, value) for pattern in _listed(statement.get(element, [])))


def _same_action(pattern: str, action: str) -> bool:
    return _matches(pattern.lower(), action.lower())


@functools.lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in pattern)
    return re.compile("".join(parts), re.DOTALL)


def _matches(pattern: str, value: str) -> bool:
    return _pattern(pattern).fullmatch(value) is not None


def _fold(pattern: str, value: str) -> bool:
    return pattern.lower() == value.lower()


def _number(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    def test(wanted: str, value: str) -> bool:
        try:
            return compare(float(value), float(wanted))
        except ValueError:
            return False

    return test


_TESTS: Final[dict[str, Callable[[str, str], bool]]] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringEqualsIgnoreCase": _fold,
    "StringLike": _matches,
    "ArnEquals": _matches,
    "ArnLike": _matches,
    "Bool": _fold,
    "NumericEquals": _number(lambda value, wanted: value == wanted),
    "NumericLessThan": _number(lambda value, wanted: value < wanted),
    "NumericLessThanEquals": _number(lambda value, wanted: value <= wanted),
    "NumericGreaterThan": _number(lambda value, wanted: value > wanted),
    "NumericGreaterThanEquals": _number(lambda value, wanted: value >= wanted),
}
_NEGATED: Final = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
}


def _met(
    operator: str, key: str, wanted: list[str], context: Mapping[str, tuple[str, ...]], unknown: bool
) -> bool:
    values = context.get(key.lower())
    if operator == "Null":
        return (values is None) == (wanted[0].lower() == "true")
    quantifier, _, name = operator.rpartition(":")
    if name.endswith("IfExists"):
        if values is None:
            return True
        name = name.removesuffix("IfExists")
    test = _TESTS.get(_NEGATED.get(name, name))
    if test is None or quantifier not in ("", "ForAllValues", "ForAnyValue"):
        return unknown
    negated = name in _NEGATED
    if values is None:
        return negated or quantifier == "ForAllValues"
    held = [any(test(one, value) for one in wanted) != negated for value in values]
    return any(held) if quantifier == "ForAnyValue" else all(held)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: Any) -> list[str]:
    """Wanted values as text: JSON lets a policy say true for "true"."""
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in _listed(value)]
