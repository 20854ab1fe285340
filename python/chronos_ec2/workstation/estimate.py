"""What a launch may cost at worst, and the deadline that a cap on it allows.

Run as a module it asks for the prices, says on standard error what the launch may cost, and prints both as
JSON: `{"prices": …, "estimate": …}`, two of the facts that launch_files.py needs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from chronos_ec2.errors import ChronosError, TooDear
from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.words import money_text, span_text
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.burstable import surplus_usd_per_hour
from chronos_ec2.workstation.pool_prices import price_of_pool
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.prices import AwsPrices, Prices, gather, instance_types
from chronos_ec2.workstation.prices_cache import PriceCache, cache_file
from chronos_ec2.workstation.run_cost import PARTS, SWITCH_MARGIN_SECONDS, cost_of
from chronos_ec2.workstation.setting_values import parse_assignments
from chronos_ec2.workstation.settings import Settings, load_settings

LEAST_SECONDS: Final = 900
"""A run that ends sooner has paid for its start alone: booting, environment and data take minutes."""
UPPER_DOWNLOAD_BYTES: Final = 8 * 1024**3
"""What the estimate takes for environment and data before it has seen them: 1,024 GETs, $0.0004."""


def worst_price(prices: Prices, settings: Settings, instance_type: str, market: str) -> dict[str, Any]:
    """A pool's price with spot at the most that it may rise to, and burstable processors at full work."""
    price = price_of_pool(prices, settings, instance_type, market, download_bytes=UPPER_DOWNLOAD_BYTES)
    hour = price["compute_cap_usd_per_hour" if market == "spot" else "compute_usd_per_hour"]
    surplus = surplus_usd_per_hour(instance_type)
    return {**price, "compute_usd_per_hour": None if hour is None else hour + surplus}


def estimate(settings: Settings, prices: Prices) -> dict[str, Any]:
    """What the dearest pool of the launch ladder costs if the run goes on to its deadline.

    The worst case ends with the switch outside the instance, 5 minutes past the deadline. `max_cost_usd`,
    when it is not 0, brings the deadline forward so that the worst case stays within.

    Returns:
        `instance_type`, `market`, `usd_per_hour`, `limit_hours`, `worst_case_usd` (its parts and the total),
        `max_cost_usd` (None without a cap), `spot_usd_per_hour` (the present price where that pool is spot),
        `surplus_usd_per_hour` (of CPU credits, where they bill), `source`, `as_of`, `notes`. Dollars that
        depend on a price that nobody knows are None.

    Raises:
        TooDear: the cap does not reach for the shortest sensible run, or a price is not known.
    """
    dearest = _dearest(settings, prices)
    wanted = limit = round(settings.max_hours * 3600)
    if settings.max_cost_usd:
        limit = _affordable(settings.max_cost_usd, dearest, wanted)
    worst = cost_of(dearest, limit + SWITCH_MARGIN_SECONDS)
    spot = prices.spot(dearest["instance_type"]) if dearest["market"] == "spot" else None
    return {
        "instance_type": dearest["instance_type"],
        "market": dearest["market"],
        **({"nodes": settings.nodes} if settings.nodes > 1 else {}),
        "usd_per_hour": _per_hour(dearest),
        "spot_usd_per_hour": settings.nodes * spot.usd if spot else None,
        "surplus_usd_per_hour": surplus_usd_per_hour(dearest["instance_type"]) or None,
        "limit_hours": settings.max_hours if limit == wanted else limit / 3600,
        "worst_case_usd": {name: worst[name] for name in (*PARTS, "total")},
        "max_cost_usd": settings.max_cost_usd or None,
        "source": dearest["source"],
        "as_of": dearest["as_of"],
        "notes": list(prices.notes),
    }


def _dearest(settings: Settings, prices: Prices) -> dict[str, Any]:
    """The worst price of the dearest pool; one that nobody knows may be any."""
    pools = [(kind, market) for market in ladder_markets(settings) for kind in instance_types(settings)]
    candidates = [worst_price(prices, settings, kind, market) for kind, market in pools]
    totals = [cost_of(price, 3600)["total"] for price in candidates]
    unknown = [price for price, total in zip(candidates, totals, strict=True) if total is None]
    return unknown[0] if unknown else max(candidates, key=lambda price: float(price["compute_usd_per_hour"]))


def _per_hour(price: Mapping[str, Any]) -> float | None:
    """What each further hour costs: without what a run costs however long it lasts."""
    two, one = cost_of(price, 7200)["total"], cost_of(price, 3600)["total"]
    return None if two is None or one is None else round(two - one, 6)


def _affordable(cap: float, price: Mapping[str, Any], limit: int) -> int:
    """Seconds until the deadline that the cap allows: whole minutes, `limit` at most."""
    name = f"{price['instance_type']} ({price['market']})"
    least = min(limit, LEAST_SECONDS)
    if cost_of(price, least)["total"] is None:
        raise TooDear(
            f"max_cost_usd is {money_text(cap)}, but what {name} costs is not known: nothing could hold it. "
            f"Take another instance type, or launch without the cap"
        )
    if _worst_total(price, limit) <= cap:
        return limit
    # The total grows with the time: the longest whole minutes that fit are found by halving.
    low, high = least // 60, limit // 60
    if _worst_total(price, least) > cap:
        smallest = math.ceil(_worst_total(price, least) * 100 - 1e-6) / 100
        raise TooDear(
            f"max_cost_usd is {money_text(cap)}, but {span_text(least)} of {name}, and "
            f"{span_text(SWITCH_MARGIN_SECONDS)} until the last switch has ended it, may cost "
            f"{money_text(smallest)}: allow {smallest:.2f} or more, or take a cheaper instance type"
        )
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _worst_total(price, middle * 60) <= cap else (low, middle - 1)
    return max(low * 60, least)


def _worst_total(price: Mapping[str, Any], seconds: int) -> float:
    return float(cost_of(price, seconds + SWITCH_MARGIN_SECONDS)["total"])


def lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The estimate for a person: level and text of each line."""
    worst, limit = found["worst_case_usd"], span_text(found["limit_hours"] * 3600)
    machines = f"{found['nodes']} x " if found.get("nodes", 1) > 1 else ""
    pool = f"{machines}{found['instance_type']} ({found['market']})"
    if worst["total"] is None:
        yield (
            "WARN",
            f"estimate: what {pool} costs is not known, so no --max-cost could be kept; the run ends after "
            f"{limit} at the latest",
        )
    else:
        parts = ", ".join(f"{name} {money_text(worst[name])}" for name in PARTS)
        cap = found["max_cost_usd"]
        capped = f" (max_cost_usd is {money_text(cap)})" if cap else ""
        yield (
            "INFO",
            f"estimate: {money_text(found['usd_per_hour'])} an hour on {pool}, {limit} at most{capped}: "
            f"{money_text(worst['total'])} in the worst case ({parts})",
        )
    if found["spot_usd_per_hour"] is not None:
        now = money_text(found["spot_usd_per_hour"])
        yield "INFO", f"spot costs {now} an hour now; the worst case counts what it may rise to"
    if found["surplus_usd_per_hour"] is not None and worst["total"] is not None:
        surplus, kind = money_text(found["surplus_usd_per_hour"]), found["instance_type"]
        yield (
            "INFO",
            f"CPU credits beyond those that {kind} earns bill up to {surplus} an hour of it; only AWS's bill "
            "has what they came to",
        )
    yield "INFO", f"prices: {found['source']}" + (f", {found['as_of']}" if found["as_of"] else "")
    for note in found["notes"]:
        yield "WARN", f"prices: {note}"


def main(argv: list[str] | None = None, *, now: Callable[[], datetime] = utc_now) -> int:
    """Print the prices and the estimate of a launch; exit code 30 when it would cost more than it may."""
    parser = argparse.ArgumentParser(prog="estimate", description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(
            arguments.env, parse_assignments(arguments.assignments), variables=os.environ
        )
        prices = gather(settings, lambda: AwsPrices(Aws(settings)), PriceCache(cache_file(settings), now))
        found = estimate(settings, prices)
    except ChronosError as error:
        print(f"launch: {error}", file=sys.stderr)
        return int(error.exit_code)
    said = [*lines(found)]
    if settings.embedded:
        said.append(("INFO", "the embedded AWS bills nothing: this is what AWS would bill"))
    for level, text in said:
        print(f"{to_text(now())} {level:<5} {text}", file=sys.stderr)
    print(json.dumps({"prices": prices.to_json(), "estimate": found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
