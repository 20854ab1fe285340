"""Prices and times as AWS, a cache file or a record gives them: numbers that are none, no times at all."""

from __future__ import annotations

import json
import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nonsense import DEEP, FUZZ, JSON, NUMBERS, TEXTS, dumped, flawed, flawed_bytes

from chronos_ec2.errors import ChronosError, UsageProblem
from chronos_ec2.state import clock
from chronos_ec2.words import money_text, span_text
from chronos_ec2.workstation.cost import parse_since
from chronos_ec2.workstation.prices_api import list_price
from chronos_ec2.workstation.prices_cache import PriceCache, Rate
from chronos_ec2.workstation.run_cost import cost_of, cost_parts_text, with_cost
from faults.tools.tally import Tally

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CACHE = {"disk": {"usd": 0.08, "source": "AWS Price List", "as_of": "2026-11-24T11:00:00Z"}}
PRODUCT = {
    "product": {"attributes": {"usagetype": "BoxUsage:g4dn.2xlarge"}},
    "terms": {
        "OnDemand": {"a": {"priceDimensions": {"b": {"unit": "Hrs", "pricePerUnit": {"USD": "0.752"}}}}}
    },
}
TIMES = st.datetimes().map(lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ")) | TEXTS
PRICES = ("compute_usd_per_hour", "disk_gb", "disk_usd_per_gb_month", "address_usd_per_hour")


@FUZZ
@given(flawed(CACHE).map(dumped) | flawed_bytes(dumped(CACHE)) | JSON.map(dumped) | st.sampled_from(DEEP))
def test_any_cache_of_prices_is_read_or_is_none(tally: Tally, body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "us-east-1.json"
        file.write_bytes(body)
        cache = PriceCache(file, lambda: NOW)
        for rate in cache.fresh().values():
            assert math.isfinite(rate.usd) and rate.usd > 0
        cache.keep({"put": Rate(0.005, "AWS Price List", "2026-11-24T11:00:00Z")})
        assert "put" in cache.fresh()
        json.loads(file.read_text(), parse_constant=lambda word: 1 / 0)
    tally.count("cache of prices", "read")


class Pricing:
    """The Price List's service with one product."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_paginator(self, _: str) -> Pricing:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"PriceList": [self._text]}]


@FUZZ
@given(flawed(PRODUCT).map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=30))
def test_any_product_has_a_price_or_none(tally: Tally, text: str) -> None:
    price = list_price(Pricing(text), "compute:g4dn.2xlarge", "us-east-1")
    assert price is None or (math.isfinite(price) and price > 0)
    tally.count("product of the Price List", "none" if price is None else "priced")


@FUZZ
@given(st.dictionaries(st.sampled_from(PRICES), NUMBERS), st.integers(0, 10**9), TIMES, TIMES, TIMES)
def test_any_prices_and_times_make_a_cost_or_none(
    tally: Tally, price: dict[str, Any], seconds: int, start: str, end: str, deadline: str
) -> None:
    cost = cost_of(price, seconds)
    assert cost_parts_text(cost)
    record = {"price": price, "instance": {"id": "i-0"}, "started_at": start, "ended_at": end}
    for outcome in ("lost", "succeeded", "interrupted"):
        with_cost({**record, "deadline": deadline, "outcome": outcome})
    tally.count("prices and times", "reckoned")


@FUZZ
@given(TIMES)
def test_a_time_is_read_as_it_was_written_or_is_none(tally: Tally, text: str) -> None:
    try:
        read = clock.from_text(text)
    except ValueError:
        tally.count("time", "refused")
        return
    if read.year >= 1000:  # no run is older
        assert read.tzinfo is UTC and clock.from_text(clock.to_text(read)) == read
    tally.count("time", "read")


@FUZZ
@given(TEXTS | st.from_regex(r"[0-9]{1,5}[hdw]", fullmatch=True) | TIMES)
def test_any_since_is_a_time_or_refused(tally: Tally, text: str) -> None:
    try:
        parse_since(text, NOW)
    except ChronosError as error:
        assert isinstance(error, UsageProblem)
    tally.count("--since", "taken or refused")


@FUZZ
@given(st.floats(-1e12, 1e12), st.integers(-(10**10), 10**10))
def test_money_and_spans_have_words(dollars: float, seconds: int) -> None:
    assert money_text(dollars) and money_text(None) and span_text(seconds)
