"""Spot instances are taken back as on EC2: hint, notice, and the end at the time that it named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from chronos_ec2.errors import UsageProblem
from chronos_ec2.local_cloud.__main__ import main
from chronos_ec2.local_cloud.interruptions import interrupt

Check = Callable[..., bool]
NOW = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
SPOT = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
ASK = """#!/usr/bin/env bash
e=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$e/api/token")
ask() { curl -s -o answer -w '%{http_code}' -H "X-aws-ec2-metadata-token: $token" "$e/meta-data/$1"; }
wait_for() { until [[ $(ask "$1") == 200 ]]; do sleep 0.05; done; mv answer "$2"; }
ask spot/instance-action >before
wait_for events/recommendations/rebalance hint
wait_for spot/instance-action notice
trap '' TERM
while :; do sleep 1; done
"""


def test_a_spot_instance_is_told_and_then_ended_whatever_it_does(
    cloud: Any, eventually: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = cloud.boot(ASK, InstanceMarketOptions=SPOT)
    disk = cloud.disk(instance)
    assert cloud.instance(instance)["InstanceLifecycle"] == "spot"
    assert eventually(lambda: (disk / "before").exists() and (disk / "before").read_text() == "404")
    where = ["interrupt", "--home", str(cloud.home)]
    assert main([*where, "--rebalance"]) == 0
    assert eventually((disk / "hint").exists)
    assert json.loads((disk / "hint").read_text()).keys() == {"noticeTime"}
    assert main([*where, "--instance", instance, "--notice-seconds", "0.7"]) == 0
    assert f"{instance} is told that it is taken back at 20" in capsys.readouterr().out
    assert eventually((disk / "notice").exists)
    assert json.loads((disk / "notice").read_text())["action"] == "terminate"
    assert cloud.ends_as(instance, "terminated")
    assert cloud.instance(instance)["StateReason"] == {
        "Code": "Server.SpotInstanceTermination",
        "Message": "Server.SpotInstanceTermination: Spot instance termination",
    }
    assert main([*where]) == 2
    assert "spot instances that run: none" in capsys.readouterr().err


def hosting(*lifecycles: str | None) -> Any:
    """A host of guests i-0, i-1, … that are spot or not."""
    guests = [
        SimpleNamespace(instance=SimpleNamespace(id=f"i-{number}", lifecycle=lifecycle), notices={})
        for number, lifecycle in enumerate(lifecycles)
    ]
    ended: list[Any] = []
    return SimpleNamespace(guests=lambda: guests, terminate=lambda *what: ended.append(what), ended=ended)


def test_the_notice_names_the_time_two_minutes_ahead_and_the_hint_ends_nothing() -> None:
    host = hosting("spot", None)
    assert interrupt(host, None, rebalance=True, now=lambda: NOW)["instance_id"] == "i-0"
    assert interrupt(host, "i-0", now=lambda: NOW)["time"] == "2025-01-15T15:02:00Z"
    told, untold = (guest.notices for guest in host.guests())
    assert json.loads(told["meta-data/spot/instance-action"]) == {
        "action": "terminate",
        "time": "2025-01-15T15:02:00Z",
    }
    assert told["meta-data/spot/termination-time"] == "2025-01-15T15:02:00Z"
    assert (
        json.loads(told["meta-data/events/recommendations/rebalance"])["noticeTime"] == "2025-01-15T15:00:00Z"
    )
    assert untold == {} and host.ended == []


@pytest.mark.parametrize(
    ("host", "named", "words"),
    [
        (hosting(None), "i-0", "i-0 is no spot instance that runs; spot instances that run: none"),
        (hosting("spot", "spot"), None, "say which with --instance; spot instances that run: i-0, i-1"),
        (hosting("spot"), "i-7", "i-7 is no spot instance that runs; spot instances that run: i-0"),
    ],
)
def test_only_a_spot_instance_that_runs_is_taken_back(host: Any, named: str | None, words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        interrupt(host, named)


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(UsageProblem, match="need 0 to 3600"):
        interrupt(hosting("spot"), None, notice_seconds=float("nan"))
