"""The table of transitions and the schema, against the rules written out by hand."""

from __future__ import annotations

import copy
import itertools
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from chronos_ec2 import errors
from chronos_ec2.errors import IllegalTransition, StateUnreadable
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state import clock
from chronos_ec2.state.machine import STATUSES, is_allowed, require_allowed, validate_state

from .fakes import state_body

DOCUMENT = {
    ("initialization", "data_sync"),
    ("initialization", "failed"),
    ("data_sync", "training"),
    ("data_sync", "failed"),
    ("training", "results_sync"),
    ("training", "failed"),
    ("training", "killed"),
    ("results_sync", "cleanup"),
    ("results_sync", "failed"),
    ("failed", "cleanup"),
    ("killed", "cleanup"),
}
SEVEN = ("initialization", "data_sync", "training", "results_sync", "cleanup", "failed", "killed")
STRINGS = ("run_id", "environment", "status", "current_step", "instance_type", "s3_prefix")
OBJECTS = ("timestamps", "training_config", "control")
NESTED = {"timestamps": ("start", "last_update"), "control": ("revision", "writer", "deadline", "attempt")}


def test_the_statuses_are_the_documents_seven() -> None:
    assert sorted(STATUSES) == sorted(SEVEN)


@pytest.mark.parametrize(("current", "new"), list(itertools.product(SEVEN, SEVEN)))
def test_every_pair_of_statuses(current: str, new: str) -> None:
    allowed = current == new or (current, new) in DOCUMENT
    assert is_allowed(current, new) is allowed
    if allowed:
        require_allowed(current, new)
    else:
        with pytest.raises(IllegalTransition, match=f"'{current}' may not become '{new}'"):
            require_allowed(current, new)


def test_the_refusal_names_what_would_be_allowed() -> None:
    with pytest.raises(IllegalTransition, match="may become: results_sync, failed, killed"):
        require_allowed("training", "cleanup")
    with pytest.raises(IllegalTransition, match="may become: nothing"):
        require_allowed("cleanup", "training")


@pytest.mark.parametrize("pair", [("training", "trained"), ("nowhere", "failed"), ("x", "x"), ("", "")])
def test_an_unknown_status_is_never_allowed(pair: tuple[str, str]) -> None:
    assert not is_allowed(*pair)


def test_a_complete_state_is_returned_as_it_is() -> None:
    body = state_body(instance_id="i-1", pid=42, error_message="why", current_step="epoch_5")
    assert validate_state(copy.deepcopy(body)) == body


def test_fields_that_the_schema_does_not_know_are_kept() -> None:
    assert validate_state(state_body(note="kept"))["note"] == "kept"


@pytest.mark.parametrize("field", [*STRINGS, *OBJECTS, "instance_id", "error_message", "pid"])
def test_a_missing_field_is_named(field: str) -> None:
    body = state_body()
    del body[field]
    with pytest.raises(StateUnreadable, match=f"{field} is missing"):
        validate_state(body)


@pytest.mark.parametrize(("parent", "child"), [(p, c) for p, names in NESTED.items() for c in names])
def test_a_missing_nested_field_is_named_with_its_parent(parent: str, child: str) -> None:
    body = state_body()
    del body[parent][child]
    with pytest.raises(StateUnreadable, match=rf"{parent}\.{child} is missing"):
        validate_state(body)


WRONG: list[tuple[str, Any]] = [
    *[(field, wrong) for field in STRINGS for wrong in (None, 5, True, [], {})],
    *[(field, wrong) for field in OBJECTS for wrong in (None, "x", 5, [])],
    *[("instance_id", 5), ("instance_id", False), ("error_message", {}), ("error_message", True)],
    *[("pid", "42"), ("pid", True), ("pid", False), ("pid", [])],
]


@pytest.mark.parametrize(("field", "wrong"), WRONG)
def test_a_field_of_another_type_is_named(field: str, wrong: Any) -> None:
    with pytest.raises(StateUnreadable, match=rf"{field} is {type(wrong).__name__}, expected"):
        validate_state(state_body(**{field: wrong}))


@pytest.mark.parametrize(
    ("parent", "child", "wrong"),
    [
        ("control", "revision", True),
        ("control", "revision", "3"),
        ("control", "revision", None),
        ("control", "attempt", False),
        ("control", "writer", 7),
        ("control", "deadline", None),
        ("timestamps", "start", 1736951422),
        ("timestamps", "last_update", None),
    ],
)
def test_a_nested_field_of_another_type_is_named(parent: str, child: str, wrong: Any) -> None:
    body = state_body()
    body[parent][child] = wrong
    with pytest.raises(StateUnreadable, match=rf"{parent}\.{child} is {type(wrong).__name__}"):
        validate_state(body)


@pytest.mark.parametrize(
    ("field", "value"), [("nodes", 2), ("instance_ids", []), ("instance_ids", ["i-0a", "i-0b"])]
)
def test_what_may_be_left_out_may_be_there(field: str, value: Any) -> None:
    body = state_body()
    assert field not in body["control"]
    body["control"][field] = value
    assert validate_state(body) is body


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("nodes", wrong) for wrong in ("2", True, None)),
        *(("instance_ids", wrong) for wrong in ("i-0a", {}, [7], ["i-0a", None])),
    ],
)
def test_what_may_be_left_out_has_a_type_too(field: str, wrong: Any) -> None:
    body = state_body()
    body["control"][field] = wrong
    with pytest.raises(StateUnreadable, match=rf"control\.{field} "):
        validate_state(body)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("run_id", wrong) for wrong in ("", "2025-01-15", "../../x", "2025-01-15-143022\n")),
        *(("instance_id", wrong) for wrong in ("", "i-", "--dry-run", "i-0abc\n", "file:///etc/hostname")),
        *(("control.nodes", wrong) for wrong in (0, -1, 1.5, 100, 10**9, 10**400)),
        *(("control.instance_ids", wrong) for wrong in (["i-0a", "--dry-run"], [""])),
    ],
)
def test_what_goes_into_calls_and_loops_has_a_form(field: str, wrong: Any) -> None:
    body = state_body()
    place = body["control"] if field.startswith("control.") else body
    place[field.removeprefix("control.")] = wrong
    with pytest.raises(StateUnreadable, match=rf"{field} is .*, expected "):
        validate_state(body)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_revision_that_no_number_can_follow_is_refused(number: float) -> None:
    body = state_body()
    body["control"]["revision"] = number
    with pytest.raises(StateUnreadable, match=r"control\.revision"):
        validate_state(body)


@pytest.mark.parametrize("status", ["done", "", "Training", "training\n", "succeeded"])
def test_an_unknown_status_is_named_with_the_known_ones(status: str) -> None:
    with pytest.raises(StateUnreadable, match=rf"unknown status {re.escape(repr(status))}.*results_sync"):
        validate_state(state_body(status=status))


@pytest.mark.parametrize("version", [None, 1, 1.0])
def test_a_schema_that_is_known_is_read(version: Any) -> None:
    body = state_body()
    body["control"]["schema_version"] = version
    assert validate_state(body) is body


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (2, "schema 2 of a newer version.*update it"),
        (1.5, "whole number"),
        ("1", "whole number"),
        (True, "whole number"),
    ],
)
def test_a_schema_that_is_newer_or_none_is_refused(version: Any, why: str) -> None:
    body = state_body()
    body["control"]["schema_version"] = version
    with pytest.raises(StateUnreadable, match=why):
        validate_state(body)


@pytest.mark.parametrize("body", [None, [], "state", 5, True, [state_body()]])
def test_what_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(StateUnreadable, match="expected an object, got"):
        validate_state(body)


def test_times_go_through_the_documents_format() -> None:
    noon = datetime(2025, 1, 15, 12, 0, 5, 999_999, tzinfo=timezone(timedelta(hours=-5)))
    assert clock.to_text(noon) == "2025-01-15T17:00:05Z"
    assert clock.from_text("2025-01-15T17:00:05Z") == datetime(2025, 1, 15, 17, 0, 5, tzinfo=UTC)
    assert abs(clock.utc_now() - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    "text", ["", "2025-01-15", "2025-01-15T17:00:05+00:00", "2025-02-30T00:00:00Z", "now"]
)
def test_another_form_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        clock.from_text(text)


ERROR_CODES = {
    "ChronosError": 1,
    "UsageProblem": 2,
    "SettingsError": 26,
    "StateError": 14,
    "StateHeld": 12,
    "StateMissing": 27,
    "StateUnreadable": 14,
    "StateConflict": 28,
    "IllegalTransition": 13,
    "StorageDenied": 15,
    "NotDeployed": 11,
    "NotUploaded": 18,
    "DataInvalid": 19,
    "NoSuchRun": 27,
    "ToolMissing": 24,
    "NoCredentials": 10,
    "LocalCloudDown": 29,
    "TooDear": 30,
}


def test_every_error_has_the_exit_code_that_is_promised() -> None:
    found = {
        name: int(kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ChronosError)
    }
    assert found == ERROR_CODES


def test_the_tree_in_the_errors_docstring_has_every_error() -> None:
    assert set(re.findall(r"(\w+)", errors.__doc__ or "")) >= set(ERROR_CODES)


def test_success_is_zero_and_no_two_codes_are_the_same() -> None:
    assert ExitCode.OK == 0
    assert len({int(code) for code in ExitCode.__members__.values()}) == len(ExitCode.__members__)
