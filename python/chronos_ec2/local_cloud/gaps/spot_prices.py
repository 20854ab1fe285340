"""DescribeSpotPriceHistory.

Real EC2: a zone's price is in force from an entry's time to the next entry's. The answer holds the
entries between StartTime and EndTime and, for each type, product and zone, the one in force at StartTime,
so the present as StartTime asks for the prices of now; ProductDescriptions tells Linux from Windows. moto
answers one entry a zone, of 2006, at $0.00001, and looks neither at times nor at products. Here spot
costs about a third of the list price, in each zone a little more than in the one before it, and last
changed on the hour.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from moto.core.responses import ActionResult
from moto.ec2.responses.spot_instances import SpotInstances

from chronos_ec2.local_cloud.gaps.pricing import PRICE_LIST_FILE

PRODUCTS: Final = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")
SHARE: Final = 0.3
STEP: Final = 0.01


def install() -> None:
    """Make moto answer with prices of this hour."""
    SpotInstances.describe_spot_price_history = _history  # type: ignore[method-assign,assignment]


def list_prices() -> dict[str, float]:
    """What an hour of each known instance type costs on demand."""
    products = json.loads(PRICE_LIST_FILE.read_text())["products"]
    return {
        more["instanceType"]: usd
        for _, _, usage, _, usd, more in products
        if usage.startswith("BoxUsage:")
        and more["operatingSystem"] == "Linux"
        and more["preInstalledSw"] == "NA"
    }


def _history(response: Any) -> ActionResult:
    offered = response.ec2_backend.describe_spot_price_history(
        response._get_param("InstanceTypes", []), response._filters_from_querystring()
    )
    products = response._get_param("ProductDescriptions", []) or list(PRODUCTS)
    known = list_prices()
    on_the_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return ActionResult(
        {
            "SpotPriceHistory": [
                {
                    "InstanceType": offer["InstanceType"],
                    "ProductDescription": product,
                    "SpotPrice": f"{_price(known[offer['InstanceType']], offer['Location']):.6f}",
                    "AvailabilityZone": offer["Location"],
                    "Timestamp": on_the_hour,
                }
                for offer in offered
                for product in PRODUCTS
                if offer["InstanceType"] in known and product in products
            ]
        }
    )


def _price(usd: float, zone: str) -> float:
    return usd * (SHARE + STEP * (ord(zone[-1]) - ord("a")))
