"""What is read out of AWS's own answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.local_cloud.gaps.pricing import get_products
from chronos_ec2.workstation.prices_api import list_price, spot_prices

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


class PriceList:
    """A client of the embedded AWS's Price List without a server; pages of two products."""

    def get_paginator(self, operation: str) -> PriceList:
        assert operation == "get_products"
        return self

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        page = get_products({**request, "MaxResults": 2})
        yield page
        while "NextToken" in page:
            page = get_products({**request, "MaxResults": 2, "NextToken": page["NextToken"]})
            yield page


class Listing:
    """A client that answers with these products."""

    def __init__(self, *products: dict[str, Any]) -> None:
        self.products = [json.dumps(product) for product in products]

    def get_paginator(self, _: str) -> Listing:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"PriceList": self.products}]


def product(usage: str, *dimensions: tuple[str, str]) -> dict[str, Any]:
    rates = {
        str(number): {"unit": unit, "pricePerUnit": {"USD": usd}}
        for number, (unit, usd) in enumerate(dimensions)
    }
    return {
        "product": {"attributes": {"usagetype": usage}},
        "terms": {"OnDemand": {"a": {"priceDimensions": rates}}, "Reserved": {"b": {"priceDimensions": {}}}},
    }


@pytest.mark.parametrize(
    ("name", "usd"),
    [
        ("compute:g4dn.2xlarge", 0.752),
        ("compute:t3.medium", 0.0416),
        ("compute:g6e.2xlarge", 2.24208),
        ("disk", 0.08),
        ("address", 0.005),
        ("put", 0.005),
        ("get", 0.0004),
    ],
)
def test_the_right_product_is_taken_among_its_likes(name: str, usd: float) -> None:
    assert list_price(PriceList(), name, "us-east-1") == usd


def test_what_the_list_does_not_have_is_none() -> None:
    assert list_price(PriceList(), "compute:x9.huge", "us-east-1") is None
    assert list_price(PriceList(), "disk", "eu-west-1") is None


def test_usage_types_have_a_prefix_in_other_regions() -> None:
    client = Listing(product("EUC1-BoxUsage:g5.xlarge", ("Hrs", "1.2580000000")))
    assert list_price(client, "compute:g5.xlarge", "eu-central-1") == 1.258


def test_other_usage_units_and_free_tiers_are_left_out() -> None:
    client = Listing(
        product("UnusedBox:g5.xlarge", ("Hrs", "9.0")),
        product("BoxUsage:g5.xlarge", ("Hrs", "0.0000000000"), ("Quantity", "3.0"), ("Hrs", "1.006")),
    )
    assert list_price(client, "compute:g5.xlarge", "us-east-1") == 1.006
    free = Listing(product("BoxUsage:g5.xlarge", ("Hrs", "0.0000000000")))
    assert list_price(free, "compute:g5.xlarge", "us-east-1") is None


def test_of_two_prices_the_dearer_counts() -> None:
    client = Listing(
        product("BoxUsage:g5.xlarge", ("Hrs", "1.0")), product("USE1-BoxUsage:g5.xlarge", ("Hrs", "1.1"))
    )
    assert list_price(client, "compute:g5.xlarge", "us-east-1") == 1.1


def test_a_product_of_another_form_has_no_price_and_hides_no_other() -> None:
    odd: dict[str, object] = {"product": {}}
    assert list_price(Listing(odd), "compute:g5.xlarge", "us-east-1") is None
    fair = product("BoxUsage:g5.xlarge", ("Hrs", "1.0"))
    assert list_price(Listing(odd, fair), "compute:g5.xlarge", "us-east-1") == 1.0


class History:
    """A client of EC2 that answers with these entries, and what it was asked."""

    def __init__(self, *entries: tuple[str, str, datetime, str]) -> None:
        names = ("InstanceType", "AvailabilityZone", "Timestamp", "SpotPrice")
        self.entries = [dict(zip(names, entry, strict=True)) for entry in entries]
        self.asked: dict[str, Any] = {}

    def get_paginator(self, operation: str) -> History:
        assert operation == "describe_spot_price_history"
        return self

    def paginate(self, **request: Any) -> list[dict[str, Any]]:
        self.asked = request
        return [{"SpotPriceHistory": self.entries[:1]}, {"SpotPriceHistory": self.entries[1:]}]


def test_the_spot_price_in_force_in_each_zone() -> None:
    hour = timedelta(hours=1)
    client = History(
        ("g5.xlarge", "us-east-1a", NOW - 2 * hour, "0.9"),
        ("g5.xlarge", "us-east-1a", NOW - hour, "0.4023"),
        ("g5.xlarge", "us-east-1b", NOW - hour, "0.5"),
    )
    found = spot_prices(client, ["g5.xlarge"], lambda: NOW)  # type: ignore[arg-type]
    assert found == {"spot:g5.xlarge:us-east-1a": 0.4023, "spot:g5.xlarge:us-east-1b": 0.5}
    assert client.asked == {
        "InstanceTypes": ["g5.xlarge"],
        "ProductDescriptions": ["Linux/UNIX"],
        "StartTime": NOW,
        "EndTime": NOW,
    }
