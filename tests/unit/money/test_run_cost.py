"""What a run has cost: Bash's jq program and Python give the same, and both what the table says."""

from __future__ import annotations

import copy
import json
import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.run_cost import cost_until, total_of, with_cost

REPOSITORY = Path(__file__).resolve().parents[3]
TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("run_costs.json").read_text())
EXAMPLES: list[dict[str, Any]] = TABLE["examples"]
START = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)


def merged(base: Any, changes: Any) -> Any:
    """As jq's `*`: objects into each other, everything else replaced."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return copy.deepcopy(changes)
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def record_of(example: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = merged(TABLE["base"], example["changes"])
    return record


def by_jq(records: list[Any]) -> list[Any]:
    program = 'include "run_cost"; map(with_cost)'
    done = subprocess.run(
        ["jq", "-L", str(REPOSITORY / "shell" / "lib"), program],
        input=json.dumps(records),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def from_jq() -> dict[str, Any]:
    results = by_jq([record_of(example) for example in EXAMPLES])
    return {example["about"]: result for example, result in zip(EXAMPLES, results, strict=True)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["about"])
def test_both_give_what_the_table_says(example: dict[str, Any], from_jq: dict[str, Any]) -> None:
    record = record_of(example)
    expected = {**record, **({"cost_usd": example["cost_usd"]} if "cost_usd" in example else {})}
    assert with_cost(record) == expected
    assert from_jq[example["about"]] == expected


def made_up(chance: random.Random) -> dict[str, Any]:
    """A record like a run's, with prices, times and counts of any size, and some of it missing."""
    moment = START + timedelta(seconds=chance.randrange(0, 10**6))
    price = {
        "compute_usd_per_hour": chance.choice([None, round(chance.uniform(0, 99), 6)]),
        "disk_usd_per_gb_month": round(chance.uniform(0, 0.3), 4),
        "disk_gb": chance.randrange(8, 4000),
        "address_usd_per_hour": 0.005,
        "put_usd_per_1000": round(chance.uniform(0, 0.02), 5),
        "get_usd_per_1000": round(chance.uniform(0, 0.002), 6),
        "request_rates": {
            f"{kind}_{when}": chance.uniform(0, 9999)
            for kind in ("put", "get")
            for when in ("once", "per_hour")
        },
    }
    return {
        "started_at": to_text(START),
        "ended_at": to_text(moment),
        "deadline": chance.choice([None, to_text(START + timedelta(hours=6))]),
        "outcome": chance.choice(["succeeded", "failed", "killed", "lost", "launch_failed", "running"]),
        "instance": {"id": chance.choice([None, "i-0abc"])},
        "price": price,
        "requests": chance.choice([None, {"put": chance.randrange(10**6), "get": chance.randrange(10**6)}]),
    }


def test_both_agree_to_the_last_digit_on_anything() -> None:
    chance = random.Random(20250115)
    records = [made_up(chance) for _ in range(400)]
    assert by_jq(records) == [with_cost(record) for record in records]


def test_the_parts_add_up_to_the_total() -> None:
    chance = random.Random(1)
    for record in (made_up(chance) for _ in range(400)):
        cost = with_cost(record)["cost_usd"]
        if cost is not None and cost["total"] is not None:
            parts = sum(cost[name] for name in ("compute", "disk", "requests", "address"))
            assert cost["total"] == pytest.approx(parts, abs=1e-9)


@pytest.mark.parametrize("odd", ["text", 7, None, [1]])
def test_what_is_no_record_stays_as_it_is_in_bash(odd: Any) -> None:
    assert by_jq([odd]) == [odd]


def test_a_run_that_goes_on_costs_up_to_now() -> None:
    going = {**TABLE["base"], "ended_at": None, "outcome": None, "requests": {"put": 0, "get": 0}}
    cost = cost_until(going, START + timedelta(hours=1))
    assert cost is not None
    assert (cost["compute"], cost["seconds"]) == (0.752, 3600)
    assert total_of(cost) == 0.768111


def test_a_run_that_still_looks_for_a_machine_costs_nothing() -> None:
    waiting = {**TABLE["base"], "ended_at": None, "outcome": None, "instance": {"id": None}}
    waiting.pop("launched_at", None)
    assert total_of(cost_until(waiting, START + timedelta(hours=2))) == 0
    named = cost_until(waiting, START + timedelta(hours=2), "i-0abc")
    assert named is not None and named["seconds"] == 7200, "the state file names it first"


def test_the_cost_of_a_run_without_prices_is_not_known() -> None:
    assert cost_until({"started_at": to_text(START)}, START) is None
    assert total_of(None) is None
    assert total_of({"total": None}) is None
