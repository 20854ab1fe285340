"""CDK context: what is accepted, and what the words are when it is not."""

from __future__ import annotations

from typing import Any

import pytest

from chronos_cdk.settings import ContextError, StackSettings


def settings(**context: Any) -> StackSettings:
    return StackSettings.from_context(context.get)


def test_without_context_the_documents_defaults_hold() -> None:
    assert settings() == StackSettings(
        environments=("dev", "prod"), availability_zones=1, log_retention_days=14, glacier_after_days=90
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("local", ("local",), id="one"),
        pytest.param("dev, prod", ("dev", "prod"), id="spaces around a comma"),
        pytest.param("dev,dev", ("dev",), id="named twice"),
        pytest.param(["dev", "eu-west"], ("dev", "eu-west"), id="a list, as cdk.json can hold"),
        pytest.param("a" * 32, ("a" * 32,), id="the longest name"),
    ],
)
def test_environments_come_as_a_comma_list_or_a_json_list(value: Any, expected: tuple[str, ...]) -> None:
    assert settings(environments=value).environments == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "dev,",
        "Dev",
        "1dev",
        "dev/*",
        "*",
        "x;rm -rf ~",
        "dev prod",
        "a" * 33,
        "dév",
        "dev\nprod",
        7,
        [],
        [None],
    ],
)
def test_what_is_no_environment_name_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ContextError, match=r"context environments: .*-c environments=dev,prod"):
        settings(environments=value)


@pytest.mark.parametrize("name", ["cached-datasets", "logs"])
def test_an_environment_cannot_take_a_shared_prefix(name: str) -> None:
    with pytest.raises(ContextError, match=f"'{name}' is a prefix that all environments share"):
        settings(environments=f"dev,{name}")


@pytest.mark.parametrize("key", ["availability_zones", "log_retention_days", "glacier_after_days", "nodes"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", True, 2.0, "9999999", "²", [1]])
def test_what_is_no_number_in_range_is_refused_by_key(key: str, value: Any) -> None:
    with pytest.raises(ContextError, match=f"context {key}: .*whole number from 1 to"):
        settings(**{key: value})


@pytest.mark.parametrize("value", ["me", "me@", "@x.y", "a@b", "a b@c.d", "a@b.c,d@e.f", "a@b.c\nd", 7])
def test_what_is_no_address_is_refused(value: Any) -> None:
    with pytest.raises(ContextError, match=r"context notify_email: .* is not an e-mail address"):
        settings(notify_email=value)


@pytest.mark.parametrize(
    ("value", "expected"), [("me+x@a.example.com", "me+x@a.example.com"), ("", ""), (None, "")]
)
def test_an_address_may_be_left_out(value: Any, expected: str) -> None:
    assert settings(notify_email=value).notify_email == expected


def test_alarms_come_with_the_types_that_they_watch() -> None:
    found = settings(alarm_hours="4", instance_types="g5.2xlarge, g4dn.2xlarge,g5.2xlarge")
    assert (found.alarm_hours, found.instance_types) == (4, ("g5.2xlarge", "g4dn.2xlarge"))
    assert settings(alarm_hours="0").alarm_hours == 0


@pytest.mark.parametrize("hours", ["-1", "169", "1.5", "soon"])
def test_alarm_hours_are_within_what_cloudwatch_can_look_back(hours: str) -> None:
    with pytest.raises(ContextError, match=r"context alarm_hours: .*whole number from 0 to 168"):
        settings(alarm_hours=hours, instance_types="g5.2xlarge")


@pytest.mark.parametrize("types", [None, "", []])
def test_alarms_without_a_type_to_watch_are_refused(types: Any) -> None:
    with pytest.raises(ContextError, match="context instance_types: alarms need"):
        settings(alarm_hours=4, instance_types=types)


@pytest.mark.parametrize("types", ["g5", "g5.2xlarge,", "g5.2x large", "*"])
def test_what_is_no_instance_type_is_refused_by_name(types: str) -> None:
    with pytest.raises(ContextError, match=r"context instance_types: .* is not an instance type"):
        settings(instance_types=types)


@pytest.mark.parametrize("value", [3, "3", " 3 "])
def test_numbers_come_as_text_from_the_command_line_or_as_numbers_from_a_file(value: Any) -> None:
    assert settings(availability_zones=value).availability_zones == 3


def test_machines_that_train_together_are_asked_for_and_not_more_than_a_launch_may_start() -> None:
    assert (settings().nodes, settings(nodes="2").nodes) == (1, 2)
    with pytest.raises(ContextError, match=r"context nodes: .*whole number from 1 to 64"):
        settings(nodes=65)
