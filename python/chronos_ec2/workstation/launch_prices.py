"""What the facts of a launch say of money: the deadline that the estimate allows, and each pool's price."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from chronos_ec2.workstation.pool_prices import price_of_pool
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.prices import Prices, from_json, instance_types
from chronos_ec2.workstation.settings import Settings


def limited(settings: Settings, facts: Mapping[str, Any]) -> Settings:
    """The settings with the deadline of the estimate, which `max_cost_usd` may have brought forward."""
    found = facts.get("estimate")
    return settings if found is None else dataclasses.replace(settings, max_hours=found["limit_hours"])


def recorded_estimate(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the run's record keeps of the estimate."""
    found = facts.get("estimate")
    kept = ("usd_per_hour", "limit_hours", "worst_case_usd", "max_cost_usd", "notes")
    return None if found is None else {name: found[name] for name in kept}


def prices_of_pools(settings: Settings, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record's `price` of every kind of pool, the launch ladder's first kind first.

    Each has the `zone` it holds for; None holds for every zone that has none of its own. Without prices among
    the facts the list is empty.
    """
    if facts.get("prices") is None:
        return []
    prices = from_json(facts["prices"])
    size = _download_bytes(facts)
    return [
        {"zone": zone, **price_of_pool(prices, settings, kind, market, zone, download_bytes=size)}
        for market in ladder_markets(settings)
        for kind in instance_types(settings)
        for zone in (None, *(_spot_zones(prices, kind) if market == "spot" else ()))
    ]


def _spot_zones(prices: Prices, instance_type: str) -> Iterator[str]:
    prefix = f"spot:{instance_type}:"
    return (name.removeprefix(prefix) for name in sorted(prices.rates) if name.startswith(prefix))


def _download_bytes(facts: Mapping[str, Any]) -> int:
    """Bytes of the training environment and of the data, as far as their manifests tell."""
    files = facts["dataset"]["files"]
    sizes = [
        facts["environment_archive"].get("bytes"),
        *(file.get("bytes") for file in files),
    ]
    return sum(size for size in sizes if isinstance(size, int))
