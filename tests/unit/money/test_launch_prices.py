"""What a launch writes down of money: the deadline, the estimate, the price of each pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.workstation.estimate import estimate
from chronos_ec2.workstation.launch_files import write_launch_files
from chronos_ec2.workstation.launch_prices import prices_of_pools
from chronos_ec2.workstation.prices import Prices
from chronos_ec2.workstation.run_cost import with_cost
from chronos_ec2.workstation.settings import Settings

from .conftest import NOW

Make = Callable[..., Settings]
MEGABYTES = 1024**2
FACTS: dict[str, Any] = {
    "run_id": "2026-11-23-120000",
    "bucket": "the-bucket",
    "requested_by": "arn:aws:iam::123456789012:user/ana",
    "ami": {"id": "ami-0123", "name": "an image", "root_device": "/dev/sda1"},
    "subnet_id": "subnet-1",
    "subnets": [{"subnet_id": "subnet-1", "zone": "us-east-1a"}],
    "scripts_sha256": "b" * 64,
    "dataset_sha256": "c" * 64,
    "environment_archive": {
        "archive": "chronos-venv.tar.gz",
        "sha256": "a" * 64,
        "pieces_sha256": "d" * 64,
        "bytes": 79 * MEGABYTES,
    },
    "dataset": {"rows": 7, "series": 2, "files": [{"name": "a.parquet", "bytes": MEGABYTES}]},
}


@pytest.fixture
def facts_for(prices_for: Callable[..., Prices]) -> Callable[[Settings], dict[str, Any]]:
    def facts(settings: Settings) -> dict[str, Any]:
        prices = prices_for(settings)
        return {**FACTS, "prices": prices.to_json(), "estimate": estimate(settings, prices)}

    return facts


def written(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_the_cap_sets_the_deadline_of_state_record_and_switch(
    make_settings: Make, facts_for: Callable[[Settings], dict[str, Any]], tmp_path: Path
) -> None:
    settings = make_settings(max_cost_usd=2)
    facts = facts_for(settings)
    write_launch_files(settings, facts, tmp_path, NOW)
    minutes = round(facts["estimate"]["limit_hours"] * 60)
    assert 100 < minutes < 200
    deadline = (NOW + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert written(tmp_path, "run.json")["deadline"] == deadline
    assert written(tmp_path, "state.json")["control"]["deadline"] == deadline
    assert f"CHRONOS_DEADLINE_MINUTES={minutes}" in (tmp_path / "user_data.sh").read_text()


def test_the_record_keeps_price_and_estimate(
    make_settings: Make, facts_for: Callable[[Settings], dict[str, Any]], tmp_path: Path
) -> None:
    settings = make_settings()
    write_launch_files(settings, facts_for(settings), tmp_path, NOW)
    record = written(tmp_path, "run.json")
    assert record["price"]["compute_usd_per_hour"] == 0.76
    assert (record["price"]["source"], record["price"]["as_of"]) == ("AWS Price List", "2026-11-23T12:00:00Z")
    assert record["price"]["request_rates"]["get_once"] == 150 + 10
    assert record["estimate"]["limit_hours"] == 6
    assert record["estimate"]["worst_case_usd"]["total"] == pytest.approx(4.78, abs=0.02)
    assert record["cost_usd"] is None
    ended = {**record, "ended_at": "2026-11-23T14:00:00Z", "instance": {"id": "i-1"}, "outcome": "succeeded"}
    assert with_cost(ended)["cost_usd"]["compute"] == 1.52


def test_every_kind_of_pool_has_its_price_in_the_ladders_order(
    make_settings: Make, facts_for: Callable[[Settings], dict[str, Any]]
) -> None:
    settings = make_settings(fallback_instance_types='["g5.2xlarge"]', market="spot-then-on-demand")
    found = prices_of_pools(settings, facts_for(settings))
    assert [
        (price["market"], price["instance_type"], price["zone"], price["compute_usd_per_hour"])
        for price in found
    ] == [
        ("spot", "g4dn.2xlarge", None, 0.31),
        ("spot", "g4dn.2xlarge", "us-east-1a", 0.25),
        ("spot", "g4dn.2xlarge", "us-east-1b", 0.31),
        ("spot", "g5.2xlarge", None, 0.5),
        ("spot", "g5.2xlarge", "us-east-1a", 0.5),
        ("on-demand", "g4dn.2xlarge", None, 0.76),
        ("on-demand", "g5.2xlarge", None, 1.25),
    ]


def test_a_launch_without_prices_goes_on_without_them(make_settings: Make, tmp_path: Path) -> None:
    write_launch_files(make_settings(), FACTS, tmp_path, NOW)
    record = written(tmp_path, "run.json")
    assert (record["price"], record["estimate"]) == (None, None)
    assert written(tmp_path, "prices.json") == []
