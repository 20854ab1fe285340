"""Where a launch's prices come from: AWS, what it said before, the project's table, and always which."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chronos_ec2.errors import LocalCloudDown
from chronos_ec2.workstation.pool_prices import price_of_pool, request_rates
from chronos_ec2.workstation.prices import Prices, from_json, gather, table_rates
from chronos_ec2.workstation.prices_cache import PriceCache, cache_file
from chronos_ec2.workstation.settings import REPOSITORY, Settings

from .conftest import LIST, NOW, Service, denied

STAMP = "2026-11-23T12:00:00Z"
Make = Callable[..., Settings]


# -- the table ----------------------------------------------------------------------------------------


def test_the_tables_default_machine_is_at_its_real_price() -> None:
    rates = table_rates("us-east-1")
    assert rates["compute:g4dn.2xlarge"].usd == 0.752
    assert (rates["disk"].usd, rates["address"].usd) == (0.08, 0.005)
    assert (rates["put"].usd, rates["get"].usd) == (0.005, 0.0004)


@pytest.mark.parametrize("region", ["us-east-1", "us-east-2", "us-west-2"])
def test_the_table_is_dated_and_sourced_and_knows_what_users_take(region: str) -> None:
    table = json.loads((REPOSITORY / "python/chronos_ec2/workstation/prices_table.json").read_text())
    entry = table["regions"][region]
    datetime.strptime(entry["as_of"], "%Y-%m-%d")
    assert "AWS" in entry["source"]
    families = {instance_type.split(".")[0] for instance_type in entry["compute"]}
    assert families >= {"g4dn", "g5", "g6", "g6e", "p3", "p4d", "p5", "t3"}
    assert all(0 < usd < 100 for usd in entry["compute"].values())


def test_the_settings_own_machines_are_in_the_table(make_settings: Make) -> None:
    for environment in ("local", "dev", "prod"):
        settings = make_settings(environment)
        assert f"compute:{settings.instance_type}" in table_rates(settings.region)


def test_another_region_has_no_table() -> None:
    assert table_rates("ap-south-1") == {}


# -- asking -------------------------------------------------------------------------------------------


def test_aws_is_asked_for_every_type_of_the_ladder_and_believed(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    settings = make_settings(fallback_instance_types='["g5.2xlarge"]')
    service = Service()
    prices = prices_for(settings, service)
    assert sorted(service.asked) == sorted(LIST)
    assert {name: rate.usd for name, rate in prices.rates.items()} == LIST
    assert {(rate.source, rate.as_of) for rate in prices.rates.values()} == {("AWS Price List", STAMP)}
    assert prices.notes == ()


@pytest.mark.parametrize("market", ["spot", "spot-then-on-demand"])
def test_spot_prices_are_asked_for_where_the_market_needs_them(
    market: str, make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    service = Service()
    prices = prices_for(make_settings(market=market), service)
    assert "spot g4dn.2xlarge" in service.asked
    assert prices.usd("spot:g4dn.2xlarge:us-east-1a") == 0.25


def test_an_answer_stands_for_a_day_and_a_spot_price_for_an_hour(
    make_settings: Make, prices_for: Callable[..., Prices], clock: list[datetime]
) -> None:
    settings, service = make_settings(market="spot"), Service()
    first = prices_for(settings, service)
    service.asked.clear()
    clock[0] += timedelta(minutes=59)
    assert prices_for(settings, service) == first
    assert service.asked == []
    clock[0] += timedelta(minutes=2)
    prices_for(settings, service)
    assert service.asked == ["spot g4dn.2xlarge"]
    service.asked.clear()
    clock[0] += timedelta(hours=23)
    prices_for(settings, service)
    assert "compute:g4dn.2xlarge" in service.asked


def test_only_what_is_missing_is_asked_for(make_settings: Make, prices_for: Callable[..., Prices]) -> None:
    service = Service()
    prices_for(make_settings(), service)
    service.asked.clear()
    prices_for(make_settings(instance_type="g5.2xlarge"), service)
    assert service.asked == ["compute:g5.2xlarge"]


# -- when AWS cannot be asked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (denied("GetProducts"), "AccessDenied"),
        (
            EndpointConnectionError(endpoint_url="https://api.pricing.us-east-1.amazonaws.com"),
            "does not answer",
        ),
        (KeyError("terms"), "a form that is not known"),
        (ValueError("not JSON"), "a form that is not known"),
    ],
)
def test_the_table_is_the_fall_back_and_it_is_said(
    trouble: Exception, words: str, make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    prices = prices_for(make_settings(), Service(fail=trouble))
    assert prices.usd("compute:g4dn.2xlarge") == 0.752
    assert prices.rates["disk"].source == "the project's table"
    assert prices.rates["disk"].as_of == "2026-09-24"
    first, second = prices.notes
    assert words in first
    assert second.startswith("from the project's table of 2026-09-24: g4dn.2xlarge, disk")


def test_a_service_that_cannot_even_be_reached_is_no_error(make_settings: Make, cache: PriceCache) -> None:
    def connect() -> Service:
        raise LocalCloudDown("the embedded AWS is not running")

    prices = gather(make_settings(), connect, cache)
    assert prices.usd("compute:g4dn.2xlarge") == 0.752
    assert "could not be asked" in prices.notes[0]


def test_a_refusal_is_not_remembered(make_settings: Make, prices_for: Callable[..., Prices]) -> None:
    prices_for(make_settings(), Service(fail=denied("GetProducts")))
    assert prices_for(make_settings(), Service()).usd("compute:g4dn.2xlarge") == 0.76


def test_one_price_that_aws_does_not_have_comes_from_the_table(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    known = {name: usd for name, usd in LIST.items() if name != "address"}
    prices = prices_for(make_settings(), Service(known))
    assert (prices.usd("disk"), prices.usd("address")) == (0.09, 0.005)
    assert prices.notes == ("from the project's table of 2026-09-24: public address",)


def test_a_type_that_nobody_knows_is_said_to_be_unknown(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    prices = prices_for(make_settings(instance_type="x9.huge"))
    assert prices.usd("compute:x9.huge") is None
    assert prices.notes == ("not known is the price of x9.huge, neither to AWS nor to the project's table",)


def test_a_region_without_a_table_has_nothing_to_fall_back_on(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    prices = prices_for(make_settings(region="ap-south-1"), Service(fail=denied("GetProducts")))
    assert prices.rates == {}
    assert "it has no prices of ap-south-1" in prices.notes[-1]


def test_spot_that_cannot_be_asked_leaves_the_list_prices(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    prices = prices_for(make_settings(market="spot"), Service(fail_spot=denied("DescribeSpotPriceHistory")))
    assert prices.usd("compute:g4dn.2xlarge") == 0.76
    assert prices.spot("g4dn.2xlarge") is None
    assert "spot prices could not be asked" in prices.notes[0]


# -- the cache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"disk": 5}',
        '{"disk": {"usd": "x", "source": "s", "as_of": "t"}}',
        '{"disk": {"usd": 9.0, "source": "s", "as_of": "tomorrow"}}',
        '{"disk": {"usd": 9.0, "source": "s", "as_of": "2027-11-23T12:00:00Z"}}',
    ],
)
def test_a_cache_that_is_broken_or_from_the_future_is_none(
    text: str, tmp_path: Path, make_settings: Make
) -> None:
    file = tmp_path / "us-east-1.json"
    file.write_text(text)
    prices = gather(make_settings(), Service, PriceCache(file, lambda: NOW))
    assert prices.usd("disk") == 0.09


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, make_settings: Make) -> None:
    (tmp_path / "a file").write_text("")
    cache = PriceCache(tmp_path / "a file" / "us-east-1.json", lambda: NOW)
    assert gather(make_settings(), Service, cache).usd("disk") == 0.09


def test_the_embedded_awss_prices_are_kept_apart_from_the_real_ones(make_settings: Make) -> None:
    home = {"CHRONOS_LOCAL_HOME": "/somewhere"}
    assert cache_file(make_settings("local"), home) == Path("/somewhere/prices/us-east-1.json")
    assert cache_file(make_settings("dev"), home) == REPOSITORY / ".chronos/prices/us-east-1.json"
    elsewhere = cache_file(make_settings("dev"), {"AWS_ENDPOINT_URL": "http://127.0.0.1:5000"})
    assert elsewhere.parent == REPOSITORY / ".chronos/prices"
    assert elsewhere.name != "us-east-1.json"


def test_prices_travel_as_json(make_settings: Make, prices_for: Callable[..., Prices]) -> None:
    prices = prices_for(make_settings(market="spot"))
    assert from_json(json.loads(json.dumps(prices.to_json()))) == prices


# -- the price of a pool ------------------------------------------------------------------------------


def test_the_record_gets_the_pools_price_with_its_source_and_time(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    settings = make_settings()
    price = price_of_pool(prices_for(settings), settings, "g4dn.2xlarge", "on-demand", download_bytes=10**9)
    rates = price.pop("request_rates")
    assert price == {
        "instance_type": "g4dn.2xlarge",
        "market": "on-demand",
        "region": "us-east-1",
        "compute_usd_per_hour": 0.76,
        "compute_cap_usd_per_hour": None,
        "disk_usd_per_gb_month": 0.09,
        "disk_gb": 100,
        "address_usd_per_hour": 0.006,
        "put_usd_per_1000": 0.0055,
        "get_usd_per_1000": 0.0005,
        "source": "AWS Price List",
        "as_of": STAMP,
    }
    assert rates == {"put_once": 60, "put_per_hour": 1080, "get_once": 150 + 120, "get_per_hour": 480}


def test_a_spot_pool_costs_what_spot_costs_in_its_zone(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    settings = make_settings(market="spot")
    prices = prices_for(settings)

    def usd(zone: str | None) -> Any:
        return price_of_pool(prices, settings, "g4dn.2xlarge", "spot", zone)["compute_usd_per_hour"]

    assert (usd("us-east-1a"), usd("us-east-1b")) == (0.25, 0.31)
    assert usd(None) == usd("us-east-1f") == 0.31
    price = price_of_pool(prices, settings, "g4dn.2xlarge", "spot", "us-east-1a")
    assert price["compute_cap_usd_per_hour"] == 0.76
    assert price["source"] == "EC2 spot price history; AWS Price List"


def test_a_spot_price_that_nobody_knows_is_its_cap(
    make_settings: Make, prices_for: Callable[..., Prices]
) -> None:
    silent = Service(spot={})
    plain = make_settings(market="spot")
    price = price_of_pool(prices_for(plain, silent), plain, "g4dn.2xlarge", "spot")
    assert (price["compute_usd_per_hour"], price["compute_cap_usd_per_hour"]) == (0.76, 0.76)
    capped = make_settings(market="spot", spot_max_price="0.4")
    price = price_of_pool(prices_for(capped, silent), capped, "g4dn.2xlarge", "spot")
    assert (price["compute_usd_per_hour"], price["compute_cap_usd_per_hour"]) == (0.4, 0.4)


def test_requests_follow_the_settings_cadences(make_settings: Make) -> None:
    rates = request_rates(make_settings(heartbeat_seconds=60, log_upload_seconds=60))
    assert (rates["put_per_hour"], rates["get_per_hour"]) == (240, 120)
