"""The stack is not deleted from under a run."""

from __future__ import annotations

from typing import Any

import pytest

from chronos_ec2.errors import StateHeld
from chronos_ec2.workstation.destruction import refuse_while_running


class FakeAws:
    """An account with one bucket, in which some state files and instances are."""

    bucket = "the-bucket"

    def __init__(self, keys: set[str], instances: list[str]) -> None:
        self.keys, self.instances = keys, instances
        self.s3 = self.ec2 = self

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        if Key not in self.keys:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return {}

    def get_paginator(self, _name: str) -> FakeAws:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Reservations": [{"Instances": [{"InstanceId": name} for name in self.instances]}]}]


def test_an_idle_stack_may_go() -> None:
    refuse_while_running(FakeAws(set(), []), ["dev", "prod"])  # type: ignore[arg-type]


def test_a_held_environment_keeps_it() -> None:
    with pytest.raises(StateHeld, match=r"prod.*invoke kill --env prod"):
        refuse_while_running(FakeAws({"prod/system-state.json"}, []), ["dev", "prod"])  # type: ignore[arg-type]


def test_a_stray_instance_keeps_it() -> None:
    with pytest.raises(StateHeld, match=r"i-1.*invoke reap"):
        refuse_while_running(FakeAws(set(), ["i-1"]), ["dev"])  # type: ignore[arg-type]
