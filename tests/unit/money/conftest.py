"""Somebody to ask for prices, without AWS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chronos_ec2.workstation.prices import Prices, gather
from chronos_ec2.workstation.prices_cache import PriceCache
from chronos_ec2.workstation.settings import Settings, load_settings

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
LIST = {
    "compute:g4dn.2xlarge": 0.76,
    "compute:g5.2xlarge": 1.25,
    "disk": 0.09,
    "address": 0.006,
    "put": 0.0055,
    "get": 0.0005,
}
SPOT = {
    "spot:g4dn.2xlarge:us-east-1a": 0.25,
    "spot:g4dn.2xlarge:us-east-1b": 0.31,
    "spot:g5.2xlarge:us-east-1a": 0.5,
}


def denied(operation: str) -> ClientError:
    error = {"Error": {"Code": "AccessDeniedException", "Message": "planned"}}
    return ClientError(error, operation)  # type: ignore[arg-type]


class Service:
    """A price service that answers what it was given, or fails, and remembers what it was asked."""

    def __init__(
        self,
        prices: dict[str, float] | None = None,
        spot: dict[str, float] | None = None,
        *,
        fail: Exception | None = None,
        fail_spot: Exception | None = None,
    ) -> None:
        self.prices = LIST if prices is None else prices
        self.spot = SPOT if spot is None else spot
        self.fail, self.fail_spot = fail, fail_spot
        self.asked: list[str] = []

    def list_price(self, name: str) -> float | None:
        self.asked.append(name)
        if self.fail:
            raise self.fail
        return self.prices.get(name)

    def spot_prices(self, instance_types: Iterable[str]) -> dict[str, float]:
        wanted = list(instance_types)
        self.asked.append(f"spot {' '.join(wanted)}")
        if self.fail_spot:
            raise self.fail_spot
        return {name: usd for name, usd in self.spot.items() if name.split(":")[1] in wanted}


@pytest.fixture
def clock() -> list[datetime]:
    """The present, in a list so that a test can move it."""
    return [NOW]


@pytest.fixture
def cache(tmp_path: Path, clock: list[datetime]) -> PriceCache:
    return PriceCache(tmp_path / "prices" / "us-east-1.json", lambda: clock[0])


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    def make(environment: str = "dev", **overrides: Any) -> Settings:
        texts = {name: str(value) for name, value in overrides.items()}
        return load_settings(environment, texts, variables={})

    return make


@pytest.fixture
def prices_for(cache: PriceCache) -> Callable[..., Prices]:
    """The prices that a launch with these settings gets from a service."""

    def gathered(settings: Settings, service: Service | None = None) -> Prices:
        return gather(settings, lambda: service or Service(), cache)

    return gathered
