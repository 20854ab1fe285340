"""What the pools of a launch cost: AWS's answer, else the dated table of this project, and which of them.

Rates have names: `compute:TYPE` (an hour, on demand), `spot:TYPE:ZONE` (an hour now), `disk` (a GB of gp3 for
a month of 720 hours), `address` (an hour of a public IPv4 address), `put` and `get` (1,000 S3 requests: PUT,
COPY, POST and LIST; GET and HEAD). Prices never make a launch fail: what nobody knows is left out, and a note
says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.prices_api import list_price, spot_prices
from chronos_ec2.workstation.prices_cache import PriceCache, Rate
from chronos_ec2.workstation.s3 import translate
from chronos_ec2.workstation.settings import Settings

OTHERS: Final = ("disk", "address", "put", "get")
LIST_SOURCE: Final = "AWS Price List"
SPOT_SOURCE: Final = "EC2 spot price history"
TABLE_SOURCE: Final = "the project's table"


@dataclass(frozen=True, slots=True)
class Prices:
    """The rates of one region by name, and what a person should know about them."""

    region: str
    rates: Mapping[str, Rate]
    notes: tuple[str, ...] = ()

    def usd(self, name: str) -> float | None:
        """A rate in US dollars, or None when it is not known."""
        rate = self.rates.get(name)
        return rate.usd if rate else None

    def spot(self, instance_type: str, zone: str | None = None) -> Rate | None:
        """What spot costs in a zone; without one, or where none is known there, in the dearest zone."""
        prefix = f"spot:{instance_type}:"
        known = {name: rate for name, rate in self.rates.items() if name.startswith(prefix)}
        return known.get(f"{prefix}{zone}") or max(known.values(), key=lambda rate: rate.usd, default=None)

    def to_json(self) -> dict[str, Any]:
        """The prices as one of the launch's facts."""
        rates = {name: asdict(rate) for name, rate in sorted(self.rates.items())}
        return {"region": self.region, "rates": rates, "notes": list(self.notes)}


def from_json(document: Mapping[str, Any]) -> Prices:
    """What `to_json` wrote."""
    rates = {name: Rate(**rate) for name, rate in document["rates"].items()}
    return Prices(document["region"], rates, tuple(document["notes"]))


class PriceService(Protocol):
    """Who can be asked for prices."""

    def list_price(self, name: str) -> float | None:
        """A list price by its name."""

    def spot_prices(self, instance_types: Iterable[str]) -> dict[str, float]:
        """Spot prices of now, by name."""


class AwsPrices:
    """AWS's own word. The Price List is answered in three regions only, whichever region is asked about."""

    def __init__(self, aws: Aws) -> None:
        region = aws.settings.region
        self._region = region
        self._price_list = aws.client("pricing", region=_price_list_region(region), hasty=True)
        self._ec2 = aws.client("ec2", hasty=True)

    def list_price(self, name: str) -> float | None:
        """A list price by its name."""
        return list_price(self._price_list, name, self._region)

    def spot_prices(self, instance_types: Iterable[str]) -> dict[str, float]:
        """Spot prices of now, by name."""
        return spot_prices(self._ec2, instance_types)


def _price_list_region(region: str) -> str:
    if region.startswith("ap-"):
        return "ap-south-1"
    return "eu-central-1" if region.startswith(("eu-", "il-", "me-", "af-")) else "us-east-1"


def table_rates(region: str) -> dict[str, Rate]:
    """The project's own dated table for a region; empty for a region that it does not have."""
    table = json.loads(files(__package__).joinpath("prices_table.json").read_text())
    entry = table["regions"].get(region)
    if entry is None:
        return {}
    flat = {name: entry[name] for name in OTHERS}
    flat |= {f"compute:{instance_type}": usd for instance_type, usd in entry["compute"].items()}
    return {name: Rate(usd, TABLE_SOURCE, entry["as_of"]) for name, usd in flat.items()}


def instance_types(settings: Settings) -> tuple[str, ...]:
    """Every type of the launch ladder, the wanted one first."""
    return tuple(dict.fromkeys((settings.instance_type, *settings.fallback_instance_types)))


def gather(settings: Settings, connect: Callable[[], PriceService], cache: PriceCache) -> Prices:
    """The prices of every pool of a launch; never an error.

    Args:
        connect: makes the service to ask; called only when something is not in the cache.
        cache: what was answered before.
    """
    types = instance_types(settings)
    wanted = [*(f"compute:{name}" for name in types), *OTHERS]
    spot = types if "spot" in ladder_markets(settings) else ()
    known, notes = cache.fresh(), list[str]()
    missing = [name for name in wanted if name not in known]
    unpriced = [name for name in spot if Prices("", known).spot(name) is None]
    if missing or unpriced:
        answered, notes = _ask(connect, missing, unpriced, cache.stamp())
        if answered:
            cache.keep(answered)
        known |= answered
    table = table_rates(settings.region)
    notes += _notes(settings.region, [name for name in wanted if name not in known], table)
    rates = {name: known.get(name) or table.get(name) for name in wanted}
    prefixes = tuple(f"spot:{instance_type}:" for instance_type in spot)
    rates |= {name: rate for name, rate in known.items() if name.startswith(prefixes)}
    return Prices(settings.region, {name: rate for name, rate in rates.items() if rate}, tuple(notes))


def _ask(
    connect: Callable[[], PriceService], names: list[str], spot_types: list[str], stamp: str
) -> tuple[dict[str, Rate], list[str]]:
    """What AWS answers, side by side, and what went wrong."""
    try:
        service = connect()
    except (ChronosError, ClientError, BotoCoreError) as error:
        return {}, [f"AWS could not be asked for prices: {error}"]
    with ThreadPoolExecutor(max_workers=8) as pool:
        asked = {name: pool.submit(_attempt, service.list_price, name, "the Price List") for name in names}
        spot = pool.submit(_attempt, service.spot_prices, spot_types, "spot prices") if spot_types else None
    found, troubles = {}, []
    for name, future in asked.items():
        price, trouble = future.result()
        troubles.append(trouble)
        if price is not None:
            found[name] = Rate(price, LIST_SOURCE, stamp)
    if spot is not None:
        prices, trouble = spot.result()
        troubles.append(trouble)
        found |= {name: Rate(price, SPOT_SOURCE, stamp) for name, price in (prices or {}).items()}
    return found, list(dict.fromkeys(filter(None, troubles)))


def _attempt(call: Callable[[Any], Any], argument: object, what: str) -> tuple[Any, str | None]:
    """The answer, or why there is none: whatever the service sends, a launch must be able to go on."""
    try:
        return call(argument), None
    except (ClientError, BotoCoreError) as error:
        return None, f"{what} could not be asked: {translate(error, what)}"
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return None, f"{what} answered in a form that is not known: {error!r}"


def _notes(region: str, missing: list[str], table: Mapping[str, Rate]) -> list[str]:
    """Which rates come from the table, and which come from nowhere."""
    notes = []
    if used := [name for name in missing if name in table]:
        day = table[used[0]].as_of
        notes.append(f"from {TABLE_SOURCE} of {day}: {', '.join(map(_words, used))}")
    if unknown := [name for name in missing if name not in table]:
        where = "" if table else f" (it has no prices of {region})"
        names = ", ".join(map(_words, unknown))
        notes.append(f"not known is the price of {names}, neither to AWS nor to {TABLE_SOURCE}{where}")
    return notes


def _words(name: str) -> str:
    kind, _, rest = name.partition(":")
    return rest or {"disk": "disk", "address": "public address", "put": "S3 PUT", "get": "S3 GET"}[kind]
