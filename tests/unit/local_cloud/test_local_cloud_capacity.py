"""Launches that the embedded AWS refuses or fails at the start, as capacity.json says; spot launches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chronos_ec2.local_cloud.gaps.capacity import Launch, Refusal, Script

HERE = Launch("g5.xlarge", "us-east-1a", "spot")
SPOT = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time", "MaxPrice": "0.5"}}
EMPTY = "InsufficientInstanceCapacity"


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    """A script with these rules."""
    file = tmp_path / "capacity.json"
    made = Script(file)

    def write(*rules: Any) -> Script:
        file.write_text(json.dumps(rules))
        return made

    return write


def refused(script: Script, launch: Launch = HERE) -> str:
    try:
        script.refuse(launch)
    except Refusal as error:
        found = re.search("<Code>(.*?)</Code>", str(error.description))
        assert found is not None
        return f"{error.code} {found[1]}"
    return "accepted"


def test_without_the_file_every_pool_has_room(tmp_path: Path) -> None:
    script = Script(tmp_path / "capacity.json")
    assert (refused(script), script.failure_at_start(HERE)) == ("accepted", None)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, "500 InsufficientInstanceCapacity"),
        (
            {"instance_type": "g5.*", "zone": "us-east-1a", "market": "spot"},
            "500 InsufficientInstanceCapacity",
        ),
        ({"instance_type": "g6.*"}, "accepted"),
        ({"zone": "*b"}, "accepted"),
        ({"market": "on-demand"}, "accepted"),
    ],
)
def test_a_rule_fits_by_type_zone_and_market(
    script: Callable[..., Script], rule: dict[str, str], expected: str
) -> None:
    assert refused(script({"error": EMPTY, **rule})) == expected


def test_a_rule_is_used_up_and_the_next_one_decides_until_the_file_changes(
    script: Callable[..., Script],
) -> None:
    rules = ({"error": "Unsupported", "times": 1}, {"state_reason": "Server.InternalError", "times": 1})
    made = script(*rules)
    assert [refused(made), refused(made)] == ["400 Unsupported", "accepted"]
    assert made.failure_at_start(HERE) == ("Server.InternalError", "Internal error on launch")
    assert made.failure_at_start(HERE) is None
    assert refused(script(*rules, {"error": EMPTY})) == "400 Unsupported"


@pytest.mark.parametrize(
    "wrong", [{"error": EMPTY, "zones": "x"}, {"zone": "us-east-1a"}, {"error": EMPTY, "times": "1"}, "text"]
)
def test_a_wrong_file_refuses_every_launch(script: Callable[..., Script], wrong: object) -> None:
    assert refused(script(wrong)) == "400 InvalidRequest"


@pytest.fixture
def scripted(cloud: Any) -> Iterator[Callable[..., None]]:
    """Writes the capacity.json of the running server, and deletes it afterwards."""
    file = cloud.home / "capacity.json"
    yield lambda *rules: file.write_text(json.dumps(rules))
    file.unlink(missing_ok=True)


def test_the_server_refuses_a_pool_and_no_other_with_the_real_codes_and_status(
    cloud: Any, scripted: Callable[..., None]
) -> None:
    scripted({"zone": "us-east-1a", "market": "spot", "error": EMPTY})
    subnets = {s["AvailabilityZone"]: s["SubnetId"] for s in cloud.ec2.describe_subnets()["Subnets"]}
    with pytest.raises(ClientError, match=r"do not have sufficient g5.xlarge capacity .*us-east-1a") as error:
        cloud.boot("#!/bin/sh", SubnetId=subnets["us-east-1a"], InstanceMarketOptions=SPOT)
    assert error.value.response["Error"]["Code"] == EMPTY
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    options = {"InstanceMarketOptions": SPOT, "ClientToken": "a-spot-launch"}
    booted = cloud.boot("#!/bin/sh", SubnetId=subnets["us-east-1b"], **options)
    instance = cloud.instance(booted)
    assert instance["InstanceLifecycle"] == "spot"
    assert re.fullmatch("sir-[a-z0-9]{8}", instance["SpotInstanceRequestId"])
    found = cloud.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["a-spot-launch"]}])
    assert [group["Instances"][0]["InstanceId"] for group in found["Reservations"]] == [booted]
    on_demand = cloud.boot("#!/bin/sh", SubnetId=subnets["us-east-1a"])
    assert "SpotInstanceRequestId" not in cloud.instance(on_demand)
    cloud.ec2.terminate_instances(InstanceIds=[booted, on_demand])


def test_an_instance_that_is_accepted_and_ends_at_the_start(
    cloud: Any, scripted: Callable[..., None], eventually: Callable[..., bool]
) -> None:
    scripted({"state_reason": "Client.InternalError", "times": 1})
    doomed = cloud.boot('#!/bin/sh\ntouch "$CHRONOS_ROOT/booted"\n')
    assert cloud.state(doomed) == "pending"
    assert eventually(lambda: cloud.state(doomed) == "terminated")
    reason = {"Code": "Client.InternalError", "Message": "Client.InternalError: Client error on launch"}
    assert cloud.instance(doomed)["StateReason"] == reason
    assert not cloud.disk(doomed).exists()
