"""What a launch may cost at worst, and the deadline that a cap on it sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chronos_ec2.errors import TooDear
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.words import money_text
from chronos_ec2.workstation.burstable import surplus_usd_per_hour
from chronos_ec2.workstation.estimate import estimate, lines, main
from chronos_ec2.workstation.prices import Prices, table_rates
from chronos_ec2.workstation.settings import Settings, load_settings

from .conftest import NOW, Service

Make = Callable[..., Settings]
Ask = Callable[..., Prices]
TABLE = Prices("us-east-1", table_rates("us-east-1"))


def words(found: dict[str, Any]) -> str:
    return "\n".join(text for _, text in lines(found))


def test_the_worst_case_has_every_part_up_to_the_last_switch(make_settings: Make) -> None:
    found = estimate(make_settings(), TABLE)
    hours = 6 + 5 / 60
    worst = found["worst_case_usd"]
    assert worst["compute"] == pytest.approx(0.752 * hours, abs=1e-6)
    assert worst["disk"] == pytest.approx(100 * 0.08 / 720 * hours, abs=1e-6)
    assert worst["address"] == pytest.approx(0.005 * hours, abs=1e-6)
    assert worst["requests"] == pytest.approx(
        (60 + 1080 * hours) * 5e-6 + (1174 + 480 * hours) * 4e-7, abs=1e-6
    )
    assert worst["total"] == pytest.approx(sum(worst[name] for name in worst if name != "total"), abs=1e-6)
    assert found["usd_per_hour"] == pytest.approx(0.752 + 100 * 0.08 / 720 + 0.005 + 0.005592, abs=2e-6)
    assert (found["limit_hours"], found["max_cost_usd"]) == (6.0, None)


def test_the_documents_own_two_hours_are_a_dollar_and_a_half(make_settings: Make) -> None:
    worst = estimate(make_settings(max_hours=2 - 5 / 60), TABLE)["worst_case_usd"]
    assert [money_text(worst[name]) for name in ("compute", "disk")] == ["$1.50", "$0.02"]


def test_the_estimate_is_one_line_and_its_source_another(make_settings: Make) -> None:
    first, second = lines(estimate(make_settings(), TABLE))
    assert first == (
        "INFO",
        "estimate: $0.77 an hour on g4dn.2xlarge (on-demand), 6 h 00 min at most: $4.71 in the worst case "
        "(compute $4.57, disk $0.07, requests $0.03, address $0.03)",
    )
    assert second == ("INFO", "prices: the project's table, 2026-09-24")


# -- the dearest pool ---------------------------------------------------------------------------------


def test_the_dearest_type_of_the_ladder_counts(make_settings: Make) -> None:
    settings = make_settings(fallback_instance_types='["g5.2xlarge", "t3.medium"]')
    assert estimate(settings, TABLE)["instance_type"] == "g5.2xlarge"


def test_spot_counts_as_what_it_may_rise_to(make_settings: Make, prices_for: Ask) -> None:
    settings = make_settings(market="spot")
    found = estimate(settings, prices_for(settings))
    assert (found["market"], found["spot_usd_per_hour"]) == ("spot", 0.31)
    assert found["worst_case_usd"]["compute"] == pytest.approx(0.76 * (6 + 5 / 60), abs=1e-6)
    assert "spot costs $0.31 an hour now" in words(found)


def test_a_cap_on_the_spot_price_is_the_worst_case(make_settings: Make, prices_for: Ask) -> None:
    settings = make_settings(market="spot", spot_max_price="0.4")
    found = estimate(settings, prices_for(settings))
    assert found["worst_case_usd"]["compute"] == pytest.approx(0.4 * (6 + 5 / 60), abs=1e-6)


def test_on_demand_after_spot_counts_as_on_demand(make_settings: Make, prices_for: Ask) -> None:
    settings = make_settings(market="spot-then-on-demand", spot_max_price="0.4")
    assert estimate(settings, prices_for(settings))["market"] == "on-demand"


def test_a_type_that_nobody_knows_makes_the_estimate_unknown(make_settings: Make, prices_for: Ask) -> None:
    settings = make_settings(fallback_instance_types='["x9.huge"]')
    found = estimate(settings, prices_for(settings))
    assert (found["instance_type"], found["worst_case_usd"]["total"], found["usd_per_hour"]) == (
        "x9.huge",
        None,
        None,
    )
    assert (
        "what x9.huge (on-demand) costs is not known, so no --max-cost could be kept; the run ends after 6 h"
        in words(found)
    )
    assert "not known is the price of x9.huge" in words(found)


# -- CPU credits --------------------------------------------------------------------------------------


def test_a_burstable_machine_counts_with_its_processors_at_full_work(make_settings: Make) -> None:
    """A t3.medium earns 24 credits an hour, minutes of one of its two processors; surplus ones bill."""
    found = estimate(make_settings(instance_type="t3.medium"), TABLE)
    surplus = (2 - 24 / 60) * 0.05
    assert found["worst_case_usd"]["compute"] == pytest.approx((0.0416 + surplus) * (6 + 5 / 60), abs=1e-6)
    assert found["surplus_usd_per_hour"] == pytest.approx(surplus)
    assert "CPU credits beyond those that t3.medium earns bill up to $0.08 an hour of it" in words(found)


def test_credits_bill_beside_the_price_of_spot(make_settings: Make, prices_for: Ask) -> None:
    settings = make_settings(instance_type="t3.2xlarge", market="spot", spot_max_price="0.1")
    worst = estimate(settings, prices_for(settings))["worst_case_usd"]
    assert worst["compute"] == pytest.approx((0.1 + 8 * 0.6 * 0.05) * (6 + 5 / 60), abs=1e-6)


def test_a_cap_holds_with_the_credits(make_settings: Make) -> None:
    found = estimate(make_settings(instance_type="t3.medium", max_cost_usd=0.25), TABLE)
    assert found["limit_hours"] * (0.0416 + 0.08) < 0.25


@pytest.mark.parametrize("kind", ["g4dn.2xlarge", "m7i.large", "t2.medium", "trn1.2xlarge", "t3.odd", "t3"])
def test_others_have_no_credits_that_bill(kind: str) -> None:
    assert surplus_usd_per_hour(kind) == 0


# -- the cap ------------------------------------------------------------------------------------------


def test_a_cap_brings_the_deadline_forward(make_settings: Make) -> None:
    found = estimate(make_settings(max_cost_usd=2), TABLE)
    assert 2.4 < found["limit_hours"] < 2.6
    assert found["limit_hours"] * 60 == pytest.approx(round(found["limit_hours"] * 60))
    assert 1.98 < found["worst_case_usd"]["total"] <= 2
    assert "2 h 30 min at most (max_cost_usd is $2.00): $2.00 in the worst case" in words(found)


def test_a_cap_that_reaches_leaves_the_deadline(make_settings: Make) -> None:
    found = estimate(make_settings(max_cost_usd=100), TABLE)
    assert (found["limit_hours"], found["max_cost_usd"]) == (6.0, 100.0)


def test_a_cap_that_reaches_for_no_run_is_refused_with_the_smallest_that_does(make_settings: Make) -> None:
    with pytest.raises(
        TooDear, match=r"max_cost_usd is \$0.10, but 15 min 00 s of g4dn.2xlarge .* allow 0.26 "
    ) as caught:
        estimate(make_settings(max_cost_usd=0.1), TABLE)
    assert caught.value.exit_code == ExitCode.TOO_DEAR
    assert estimate(make_settings(max_cost_usd=0.26), TABLE)["limit_hours"] == 0.25
    with pytest.raises(TooDear):
        estimate(make_settings(max_cost_usd=0.25), TABLE)


def test_a_short_run_that_was_asked_for_may_be_shorter_than_a_quarter_of_an_hour(make_settings: Make) -> None:
    assert estimate(make_settings(max_hours=0.05, max_cost_usd=0.12), TABLE)["limit_hours"] == 0.05
    with pytest.raises(TooDear, match="3 min 00 s"):
        estimate(make_settings(max_hours=0.05, max_cost_usd=0.05), TABLE)


def test_a_cap_on_what_nobody_knows_the_price_of_is_refused(make_settings: Make) -> None:
    with pytest.raises(TooDear, match=r"what x9\.huge \(on-demand\) costs is not known"):
        estimate(make_settings(instance_type="x9.huge", max_cost_usd=50), TABLE)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    cap=st.floats(0.01, 500).map(lambda usd: round(usd, 2)),
    hours=st.floats(0.05, 336),
    kind=st.sampled_from(["t3.medium", "g4dn.2xlarge", "g6e.48xlarge", "p5.48xlarge"]),
    gb=st.integers(8, 2000),
)
def test_no_worst_case_is_above_its_cap_and_none_could_be_longer(
    cap: float, hours: float, kind: str, gb: int
) -> None:
    base = {"instance_type": kind, "volume_gb": str(gb), "max_hours": repr(hours)}

    def found_for(usd: float) -> dict[str, Any]:
        return estimate(load_settings("dev", {**base, "max_cost_usd": repr(usd)}, variables={}), TABLE)

    try:
        found = found_for(cap)
    except TooDear as error:
        smallest = float(str(error).split("allow ")[1].split(" ")[0])
        assert smallest > cap
        found, cap = found_for(smallest), smallest
    assert found["worst_case_usd"]["total"] <= cap
    assert found["limit_hours"] <= hours
    if found["limit_hours"] < hours - 1 / 30:
        minute = found["usd_per_hour"] / 60
        assert found["worst_case_usd"]["total"] + minute > cap - 1e-4


# -- the command --------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setenv("CHRONOS_PRICES_HOME", str(tmp_path))
    monkeypatch.setattr("chronos_ec2.workstation.estimate.AwsPrices", lambda aws: service)
    return service


def test_the_command_tells_people_on_stderr_and_programs_on_stdout(
    asked: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", "dev", "--set", "max_cost_usd=2"], now=lambda: NOW) == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert facts.keys() == {"prices", "estimate"}
    assert facts["prices"]["rates"]["disk"] == {
        "usd": 0.09,
        "source": "AWS Price List",
        "as_of": "2026-11-23T12:00:00Z",
    }
    assert told.err.startswith("2026-11-23T12:00:00Z INFO  estimate: $0.78 an hour on g4dn.2xlarge")
    assert "prices: AWS Price List, 2026-11-23T12:00:00Z" in told.err


def test_the_command_refuses_what_cannot_fit(asked: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--env", "dev", "--set", "max_cost_usd=0.01"]) == 30
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("launch: max_cost_usd is $0.01, but 15 min")


def test_a_bad_setting_is_told_before_anybody_is_asked(
    asked: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", "dev", "--set", "max_cost_usd=-1"]) == ExitCode.SETTINGS_INVALID
    assert "max_cost_usd" in capsys.readouterr().err
    assert asked.asked == []


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "not known"),
        (0, "$0"),
        (0.00004, "under $0.0001"),
        (0.00178, "$0.0018"),
        (0.005, "$0.0050"),
        (0.01, "$0.01"),
        (1.504, "$1.50"),
        (1234.5, "$1,234.50"),
    ],
)
def test_dollars_in_words(usd: float | None, text: str) -> None:
    assert money_text(usd) == text
