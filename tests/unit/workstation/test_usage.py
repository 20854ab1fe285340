"""Where a run's billed seconds went, from its timeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.report.usage import SPENT_ON, Usage, usage_of
from chronos_ec2.state.clock import to_milliseconds
from chronos_ec2.workstation.run_cost import billed_until

START = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)
NOW = START + timedelta(hours=1)
# Seconds after the launch at which a whole run reaches each milestone.
WHOLE = dict(zip(SPENT_ON, (0, 8, 20, 45.5, 50, 52, 60, 160, 165, 170), strict=True))


def timeline(seconds: dict[str, float]) -> dict[str, str]:
    return {name: to_milliseconds(START + timedelta(seconds=at)) for name, at in seconds.items()}


def record(seconds: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "started_at": "2025-01-15T14:30:20Z",
        "launched_at": "2025-01-15T14:30:22Z",
        "ended_at": "2025-01-15T14:33:12Z",
        "outcome": "succeeded",
        "timeline": timeline(WHOLE if seconds is None else seconds),
        **changes,
    }


def usage(document: dict[str, Any], **more: Any) -> Usage:
    found = usage_of(document, billed_until(document, NOW), NOW, **more)
    assert found is not None
    return found


def test_a_whole_run_names_each_second_and_the_largest_waste() -> None:
    found = usage(record())
    assert (found.billed_seconds, found.trained_seconds, found.trained_percent) == (170, 100.0, 58.8)
    assert dict(found.waste_seconds) == {
        "environment": 25.5,
        "boot": 12.0,
        "start of the machine": 8.0,
        "start of training": 8.0,
        "results": 5.0,
        "clean-up": 5.0,
        "preflight": 4.5,
        "data": 2.0,
    }
    assert found.trained_seconds + sum(found.waste_seconds.values()) == found.billed_seconds
    assert found.text == "billed 2 min 50 s, trained 1 min 40 s (59 %)"
    assert found.sentence == found.text + "; largest waste: environment, 25 s"
    assert found.account.endswith(
        "; the rest: " + ", ".join(f"{n} {int(s)} s" for n, s in found.waste_seconds.items())
    )


def test_what_took_no_second_is_not_told() -> None:
    found = usage(record({**WHOLE, "instance_running": 0.4}))
    assert found.waste_seconds["start of the machine"] == 0.4 and "start of the machine" not in found.account


def test_work_side_by_side_counts_once() -> None:
    data_first = {**WHOLE, "data_ready": 47}
    assert "data" not in usage(record(data_first)).waste_seconds
    assert usage(record(data_first)).waste_seconds["start of training"] == 10.0


@pytest.mark.parametrize(
    ("last", "blamed"),
    [("user_data_started", "environment"), ("preflight_passed", "data"), ("last_step", "results")],
)
def test_a_run_that_broke_off_blames_what_it_was_doing(last: str, blamed: str) -> None:
    until = list(SPENT_ON).index(last) + 1
    known = {name: WHOLE[name] for name in list(SPENT_ON)[:until]}
    found = usage(record({**known, "power_off": 170}, outcome="failed"))
    assert found.waste_seconds[blamed] == 170 - WHOLE[last]
    # The record's own end where the machine could not say it.
    lost = usage(record(known, outcome="lost"))
    assert lost.waste_seconds[blamed] == 170 - WHOLE[last]


def test_training_that_broke_off_after_its_first_step_trained() -> None:
    known = {name: WHOLE[name] for name in list(SPENT_ON)[:7]}
    assert usage(record(known, outcome="lost")).trained_seconds == 110.0


def test_a_run_that_goes_on_is_counted_up_to_now_from_its_state_file() -> None:
    known = {name: WHOLE[name] for name in list(SPENT_ON)[:7]}
    going = record(None, timeline=None, ended_at=None, outcome=None)
    assert usage_of(going, billed_until(going, NOW), NOW) is None
    found = usage(going, live={"control": {"timeline": timeline(known)}})
    assert (found.billed_seconds, found.trained_seconds) == (3600, 3540.0)


@pytest.mark.parametrize(
    "broken",
    [None, [], "x", {}, {"first_step": 7}, {"first_step": "soon"}, {"lunch": "2025-01-15T14:30:22.000Z"}],
)
def test_a_timeline_that_cannot_be_read_is_none(broken: object) -> None:
    assert usage_of(record(timeline=broken), 170, NOW) is None


def test_clocks_that_disagree_cost_no_negative_seconds() -> None:
    found = usage(record({**WHOLE, "launch_accepted": 30, "instance_running": 29.8}))
    assert all(seconds > 0 for seconds in found.waste_seconds.values())
