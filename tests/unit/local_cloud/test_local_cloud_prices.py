"""The price services of the embedded AWS: the Price List, and what spot costs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chronos_ec2.local_cloud.gaps.pricing import Refusal, get_products
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.prices import AwsPrices, gather
from chronos_ec2.workstation.prices_cache import PriceCache
from chronos_ec2.workstation.settings import load_settings


def matching(**wanted: str) -> list[dict[str, str]]:
    return [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()]


def test_the_price_list_answers_with_json_in_strings(cloud: Any) -> None:
    wanted = matching(
        instanceType="g4dn.2xlarge", operatingSystem="Linux", preInstalledSw="NA", tenancy="Shared"
    )
    answer = cloud.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=wanted)
    assert answer["FormatVersion"] == "aws_v1"
    products = {
        json.loads(text)["product"]["attributes"]["usagetype"]: json.loads(text)
        for text in answer["PriceList"]
    }
    assert products.keys() >= {"BoxUsage:g4dn.2xlarge", "UnusedBox:g4dn.2xlarge"}
    (term,) = products["BoxUsage:g4dn.2xlarge"]["terms"]["OnDemand"].values()
    (rate,) = term["priceDimensions"].values()
    assert (rate["unit"], rate["pricePerUnit"]) == ("Hrs", {"USD": "0.7520000000"})


def test_other_services_are_still_served(cloud: Any) -> None:
    assert cloud.client("sts").get_caller_identity()["Account"]


def test_a_product_must_have_every_attribute_asked_for() -> None:
    def usages(service: str, **wanted: str) -> set[str]:
        found = get_products({"ServiceCode": service, "Filters": matching(**wanted)})["PriceList"]
        return {json.loads(text)["product"]["attributes"]["usagetype"] for text in found}

    assert usages("AmazonEC2", productFamily="Storage", volumeApiName="gp3") == {"EBS:VolumeUsage.gp3"}
    assert len(usages("AmazonVPC", group="VPCPublicIPv4Address")) == 3
    # As in the real list, most products have no family.
    assert usages("AmazonVPC", group="VPCPublicIPv4Address", productFamily="IP Address") == set()
    assert usages("AmazonS3", group="S3-API-Tier1", regionCode="eu-west-9") == set()
    assert usages("AmazonNothing") == set()


def test_pages_are_handed_out_with_a_token() -> None:
    first = get_products({"ServiceCode": "AmazonEC2", "MaxResults": 3})
    second = get_products({"ServiceCode": "AmazonEC2", "MaxResults": 3, "NextToken": first["NextToken"]})
    assert len(first["PriceList"]) == len(second["PriceList"]) == 3
    assert not set(first["PriceList"]) & set(second["PriceList"])
    assert "NextToken" not in get_products({"ServiceCode": "AmazonEC2"})
    with pytest.raises(Refusal):
        get_products({"ServiceCode": "AmazonEC2", "NextToken": "mine"})


def test_what_is_not_served_is_the_services_own_error(cloud: Any) -> None:
    with pytest.raises(ClientError, match="InvalidParameterException"):
        cloud.client("pricing").describe_services()


def test_a_launch_finds_all_its_prices(cloud: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHRONOS_LOCAL_HOME", str(cloud.home))
    settings = load_settings("local", {"market": "spot-then-on-demand"}, variables={})
    prices = gather(settings, lambda: AwsPrices(Aws(settings)), PriceCache(tmp_path / "prices.json"))
    assert prices.notes == ()
    assert {name: rate.usd for name, rate in prices.rates.items() if "spot:" not in name} == {
        "compute:t3.medium": 0.0416,
        "disk": 0.08,
        "address": 0.005,
        "put": 0.005,
        "get": 0.0004,
    }
    assert prices.usd("spot:t3.medium:us-east-1a") == pytest.approx(0.01248)


def test_spot_costs_a_part_of_the_list_price_by_zone(cloud: Any) -> None:
    now = datetime.now(UTC)
    answer = cloud.ec2.describe_spot_price_history(
        InstanceTypes=["g4dn.2xlarge"], ProductDescriptions=["Linux/UNIX"], StartTime=now, EndTime=now
    )
    entries = answer["SpotPriceHistory"]
    prices = {entry["AvailabilityZone"]: float(entry["SpotPrice"]) for entry in entries}
    assert len(entries) == len(prices) > 1
    assert prices["us-east-1a"] == pytest.approx(0.2256)
    assert all(0.2 < price < 0.376 for price in prices.values())
    assert {entry["ProductDescription"] for entry in entries} == {"Linux/UNIX"}
    assert all(timedelta(0) <= now - entry["Timestamp"] < timedelta(hours=1, seconds=5) for entry in entries)
