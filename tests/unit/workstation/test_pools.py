"""The launch ladder: which pools, in which order, with which tokens."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from chronos_ec2.workstation.pools import client_token, ladder, ladder_markets
from chronos_ec2.workstation.settings import load_settings

RUN_ID = "2025-01-15-143022"
SUBNETS = [{"subnet_id": "subnet-a", "zone": "us-east-1a"}, {"subnet_id": "subnet-b", "zone": "us-east-1b"}]


def pools(**overrides: str) -> list[dict[str, Any]]:
    return ladder(load_settings("dev", overrides, variables={}), RUN_ID, SUBNETS)


def order(found: list[dict[str, Any]]) -> list[str]:
    return [f"{pool['instance_type']} {pool['zone']} {pool['market']}" for pool in found]


def test_one_type_goes_through_the_zones_on_demand() -> None:
    assert order(pools()) == ["g4dn.2xlarge us-east-1a on-demand", "g4dn.2xlarge us-east-1b on-demand"]


def test_a_fallback_type_comes_after_the_first_one_in_every_zone() -> None:
    assert order(pools(fallback_instance_types='["g5.xlarge"]', market="spot")) == [
        "g4dn.2xlarge us-east-1a spot",
        "g4dn.2xlarge us-east-1b spot",
        "g5.xlarge us-east-1a spot",
        "g5.xlarge us-east-1b spot",
    ]


def test_spot_is_left_only_when_no_type_has_it_anywhere() -> None:
    found = order(pools(fallback_instance_types='["g5.xlarge"]', market="spot-then-on-demand"))
    assert [item.split()[-1] for item in found] == ["spot"] * 4 + ["on-demand"] * 4
    assert [item.split()[0] for item in found[4:]] == ["g4dn.2xlarge"] * 2 + ["g5.xlarge"] * 2


def test_a_type_that_is_named_twice_is_tried_once() -> None:
    found = pools(instance_type="g5.xlarge", fallback_instance_types='["g6.xlarge","g5.xlarge","g6.xlarge"]')
    assert [pool["instance_type"] for pool in found] == ["g5.xlarge"] * 2 + ["g6.xlarge"] * 2


def test_a_pool_says_which_quota_limits_it() -> None:
    spot, demand = pools(market="spot")[0], pools()[0]
    assert spot["quota"] == {"code": "L-3819A6DF", "name": "All G and VT Spot Instance Requests"}
    assert demand["quota"]["code"] == "L-DB2E81BA"
    assert pools(instance_type="zz9.xlarge")[0]["quota"] is None


@pytest.mark.parametrize("market", ["on-demand", "spot", "spot-then-on-demand"])
def test_the_markets_of_a_ladder_are_those_of_its_pools(market: str) -> None:
    settings = load_settings("dev", {"market": market}, variables={})
    assert ladder_markets(settings) == tuple(dict.fromkeys(pool["market"] for pool in pools(market=market)))


def test_a_token_is_a_digest_of_run_pool_and_attempt() -> None:
    text = f"{RUN_ID}|g4dn.2xlarge|subnet-a|on-demand|1"
    assert pools()[0]["client_token"] == hashlib.sha256(text.encode()).hexdigest()
    assert len(pools()[0]["client_token"]) == 64


def test_every_difference_makes_another_token() -> None:
    first = (RUN_ID, "g5.xlarge", "subnet-a", "spot")
    tokens = {
        client_token(*first),
        client_token("2025-01-15-143023", *first[1:]),
        client_token(RUN_ID, "g6.xlarge", "subnet-a", "spot"),
        client_token(RUN_ID, "g5.xlarge", "subnet-b", "spot"),
        client_token(RUN_ID, "g5.xlarge", "subnet-a", "on-demand"),
        client_token(*first, attempt=2),
    }
    assert len(tokens) == 6


def test_the_script_makes_the_same_token_of_a_later_attempt() -> None:
    # tests/bats/lib/ladder.bats has the same digest.
    assert client_token(RUN_ID, "g5.xlarge", "subnet-a", "spot", 2) == (
        "a7da1cc7fa8c1209b017f21832eb42680ea737437301545ee9e7a07ab0fa426b"
    )
