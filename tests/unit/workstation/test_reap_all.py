"""Which environments `invoke reap` looks at, and what it does when an account cannot be asked."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from chronos_ec2.errors import LocalCloudDown, NoCredentials, NotDeployed
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation import reap_all
from chronos_ec2.workstation.reap_all import homes, reap_everything
from chronos_ec2.workstation.settings import Settings, load_settings

RUN = "2025-01-15-143022"


class Account:
    """What `Aws` is for these tests: one made-up account, or one that cannot be asked."""

    troubles: dict[str, Exception]
    world: Any
    exports: dict[str, str]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.s3, self.ec2 = self.world.s3, self.world.ec2
        self.topic_arn, self.clock = "", utc_now

    @property
    def bucket(self) -> str:
        trouble = self.troubles.get("local" if self.settings.embedded else "aws")
        if trouble is not None:
            raise trouble
        return str(self.world.bucket)


@pytest.fixture
def account(world: Any, monkeypatch: pytest.MonkeyPatch) -> type[Account]:
    Account.world, Account.exports = world, {}
    Account.troubles = {"local": LocalCloudDown("it is not running")}
    monkeypatch.setattr(reap_all, "Aws", Account)
    return Account


def reap(environment: str | None = None, **changes: Any) -> tuple[ExitCode, list[dict[str, Any]], str]:
    out, err = io.StringIO(), io.StringIO()
    options: dict[str, Any] = {"dry_run": True, "as_json": True, "confirm": lambda: True, **changes}
    code = reap_everything(environment, out=out, err=err, **options)
    return code, [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


def test_another_profile_is_another_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        reap_all,
        "load_settings",
        lambda name: replace(load_settings(name), aws_profile="work" if name == "prod" else ""),
    )
    assert [[item.environment for item in home] for home in homes(None)] == [["local"], ["dev"], ["prod"]]


def test_environments_of_one_account_and_region_are_one_home() -> None:
    found = [[item.environment for item in home] for home in homes(None)]
    assert found == [["local"], ["dev", "prod"]]
    assert [[item.environment for item in home] for home in homes("prod")] == [["prod"]]


def test_every_environment_is_looked_at_also_one_that_was_taken_out_of_the_settings(
    account: type[Account],
) -> None:
    world = account.world
    forgotten = world.start_instance(RUN, "old")
    world.put("older/2024-01-01-000000/run.json", "{}")
    world.put("cached-datasets/scripts/MANIFEST", "")
    world.put("Not A Name/file", "")
    code, plans, said = reap()
    assert code == ExitCode.OK and "local: the embedded AWS is not running" in said
    assert [plan["environment"] for plan in plans] == ["dev", "old", "older", "prod"]
    assert [action["what"] for action in plans[1]["actions"]] == [forgotten]
    assert [plan["actions"] for plan in plans if plan["environment"] != "old"] == [[], [], []]


def test_one_environment_is_that_one_alone(account: type[Account]) -> None:
    account.world.start_instance(RUN, "old")
    assert [plan["environment"] for plan in reap("dev")[1]] == ["dev"]
    with pytest.raises(LocalCloudDown):
        reap("local")


def test_an_account_that_cannot_be_asked_hides_no_other_and_is_the_error_in_the_end(
    account: type[Account],
) -> None:
    account.troubles = {"aws": NoCredentials("none")}
    out, err = io.StringIO(), io.StringIO()
    options: dict[str, Any] = {"dry_run": True, "as_json": True, "confirm": lambda: True}
    with pytest.raises(NoCredentials):
        reap_everything(None, out=out, err=err, **options)
    assert json.loads(out.getvalue().splitlines()[0])["environment"] == "local"
    assert "dev, prod: not looked at: none" in err.getvalue()


def test_an_account_without_the_stack_has_nothing_to_end_unless_a_machine_is_left(
    account: type[Account],
) -> None:
    account.troubles["aws"] = NotDeployed("there is no stack")
    code, plans, _ = reap()
    assert code == ExitCode.OK and [plan["actions"] for plan in plans] == [[], []]
    with pytest.raises(NotDeployed):
        reap("dev")
    account.world.start_instance(RUN, "dev")
    with pytest.raises(NotDeployed):
        reap()


def test_the_person_is_asked_once_for_all(account: type[Account]) -> None:
    world = account.world
    asked: list[bool] = []

    def confirm() -> bool:
        asked.append(True)
        return True

    for environment in ("dev", "prod"):
        world.put(f"{environment}/system-state.json", "not JSON")
    code, _, said = reap(dry_run=False, confirm=confirm)
    assert code == ExitCode.OK and asked == [True]
    assert "dev is free" in said and "prod is free" in said
