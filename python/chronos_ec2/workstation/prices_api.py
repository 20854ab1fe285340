"""The two AWS services that know prices: the Price List API for list prices, EC2 for what spot costs now."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.state.clock import utc_now

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

_HOURS: Final = frozenset({"Hrs", "Hours"})


@dataclass(frozen=True, slots=True)
class Query:
    """What identifies one price in the Price List.

    Attributes:
        service: the service code.
        filters: attribute (or `productFamily`) and its exact value; the region comes on top.
        usage: a pattern of the usage type, whose prefix differs by region (`USW2-`, `EU-`, none).
        units: the units in which the price may be given.
        per: how many units our price is for.
    """

    service: str
    filters: Mapping[str, str]
    usage: re.Pattern[str]
    units: frozenset[str]
    per: int = 1


def query_of(name: str) -> Query:
    """The query behind one of our names: `compute:g4dn.2xlarge`, `disk`, `address`, `put`, `get`."""
    kind, _, instance_type = name.partition(":")
    return _compute(instance_type) if kind == "compute" else _OTHERS[kind]


def _compute(instance_type: str) -> Query:
    # capacitystatus and preInstalledSw keep reservations and images with SQL Server out.
    wanted = {
        "instanceType": instance_type,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "capacitystatus": "Used",
        "preInstalledSw": "NA",
    }
    usage = re.compile(rf"([A-Z0-9]+-)?BoxUsage:{re.escape(instance_type)}")
    return Query("AmazonEC2", wanted, usage, _HOURS)


_OTHERS: Final[Mapping[str, Query]] = {
    "disk": Query(
        "AmazonEC2",
        {"productFamily": "Storage", "volumeApiName": "gp3"},
        re.compile(r"([A-Z0-9]+-)?EBS:VolumeUsage\.gp3"),
        frozenset({"GB-Mo"}),
    ),
    # The address has no product family in the Price List.
    "address": Query(
        "AmazonVPC",
        {"group": "VPCPublicIPv4Address"},
        re.compile(r"([A-Z0-9]+-)?PublicIPv4:InUseAddress"),
        _HOURS,
    ),
    "put": Query(
        "AmazonS3",
        {"group": "S3-API-Tier1"},
        re.compile(r"([A-Z0-9]+-)?Requests-Tier1"),
        frozenset({"Requests"}),
        per=1000,
    ),
    "get": Query(
        "AmazonS3",
        {"group": "S3-API-Tier2"},
        re.compile(r"([A-Z0-9]+-)?Requests-Tier2"),
        frozenset({"Requests"}),
        per=1000,
    ),
}


def list_price(client: Any, name: str, region: str) -> float | None:
    """One list price in US dollars, on demand; None when the Price List has none.

    Args:
        client: a boto3 client of `pricing`.
        name: as for `query_of`.

    Raises:
        ClientError, BotoCoreError: the service did not answer.
    """
    query = query_of(name)
    wanted = {**query.filters, "regionCode": region}
    filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()]
    pages = client.get_paginator("get_products").paginate(
        ServiceCode=query.service, Filters=filters, FormatVersion="aws_v1"
    )
    # Each product comes as JSON inside a string. The dearest counts: an estimate must not be too low.
    texts = (text for page in pages for text in page["PriceList"])
    prices = [price for text in texts for price in _prices(text, query)]
    return round(max(prices) * query.per, 10) if prices else None


def _prices(text: str, query: Query) -> list[float]:
    """The prices of one product; none when it is not made as the Price List's products are."""
    try:
        return [price for price in _dimension_prices(json.loads(text), query) if 0 < price < math.inf]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return []


def _dimension_prices(product: Mapping[str, Any], query: Query) -> Iterable[float]:
    if not query.usage.fullmatch(product["product"]["attributes"].get("usagetype", "")):
        return
    for term in product["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            # A reservation's unused hours and free tiers are listed at 0.
            if dimension["unit"] in query.units:
                yield float(dimension["pricePerUnit"].get("USD", 0))


def spot_prices(
    ec2: EC2Client, instance_types: Iterable[str], now: Callable[[], datetime] = utc_now
) -> dict[str, float]:
    """What spot costs now, in US dollars an hour, by `spot:TYPE:ZONE`.

    With the present as StartTime, EC2 answers with the price in force in each zone.

    Raises:
        ClientError, BotoCoreError: EC2 did not answer.
    """
    moment = now()
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=list(instance_types),  # type: ignore[arg-type]
        ProductDescriptions=["Linux/UNIX"],
        StartTime=moment,
        EndTime=moment,
    )
    newest: dict[str, tuple[datetime, float]] = {}
    for page in pages:
        for entry in page["SpotPriceHistory"]:
            name = f"spot:{entry['InstanceType']}:{entry['AvailabilityZone']}"
            found = (entry["Timestamp"], float(entry["SpotPrice"]))
            newest[name] = max(newest.get(name, found), found)
    return {name: price for name, (_, price) in newest.items() if price > 0}
