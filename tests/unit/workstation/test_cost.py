"""Dollars where a person looks for them: while a run goes on, at its end, in the history, and added up."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.errors import UsageProblem
from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.cost import Sum, add_up, grand_total, parse_since, print_costs
from chronos_ec2.workstation.outcome import Fate, finish_record
from chronos_ec2.workstation.run_record import RunRecord
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.runs_table import print_runs
from chronos_ec2.workstation.watch import watch

RUN = "2025-01-15-143022"
NOW = datetime(2025, 1, 31, 12, 0, 0, tzinfo=UTC)
PRICE = {
    "market": "on-demand",
    "compute_usd_per_hour": 0.752,
    "disk_usd_per_gb_month": 0.08,
    "disk_gb": 100,
    "address_usd_per_hour": 0.005,
    "put_usd_per_1000": 0.005,
    "get_usd_per_1000": 0.0004,
    "request_rates": {"put_once": 60, "put_per_hour": 840, "get_once": 270, "get_per_hour": 480},
    "source": "AWS Price List",
    "as_of": "2025-01-15T14:30:00Z",
}
MACHINE = {"id": "i-0123456789abcdef0", "type": "g4dn.2xlarge", "market": "on-demand"}
COST = {
    "compute": 1.504,
    "disk": 0.022222,
    "requests": 0.009,
    "address": 0.01,
    "total": 1.545222,
    "seconds": 7200,
}


def watched(world: Any, **more: Any) -> str:
    out = io.StringIO()
    watch(
        world.s3,
        world.ec2,
        world.bucket,
        "dev",
        out=out,
        now=world.clock.now,
        sleep=world.clock.sleep,
        **more,
    )
    return out.getvalue()


def deadline(world: Any, hours: float) -> dict[str, Any]:
    return {
        "revision": 1,
        "writer": "w",
        "deadline": to_text(world.clock.now() + timedelta(hours=hours)),
        "attempt": 1,
    }


# -- while it runs ------------------------------------------------------------------------------------


def test_watch_shows_the_dollars_so_far_and_at_the_deadline(world: Any) -> None:
    world.put_run(price=PRICE, instance=MACHINE)
    control = deadline(world, 6)
    world.clock.pass_time(3600)
    world.put_state("training", "step_10", control=control)
    assert "heartbeat 0 s ago  $0.77 so far, $4.64 at the deadline" in watched(world, follow=False)
    seen = json.loads(watched(world, follow=False, as_json=True))
    assert seen["cost_usd"] == pytest.approx(0.772911, abs=1e-6)
    assert seen["cost_at_deadline_usd"] == pytest.approx(4.636, abs=0.03)


def test_billing_runs_from_the_launch_and_not_from_the_record(world: Any) -> None:
    launched = to_text(world.clock.now() + timedelta(minutes=30))
    world.put_run(price=PRICE, instance=MACHINE, launched_at=launched)
    world.clock.pass_time(3600)
    world.put_state("training", "step_10")
    assert json.loads(watched(world, follow=False, as_json=True))["cost_usd"] == pytest.approx(
        0.386, abs=0.01
    )


@pytest.mark.parametrize("record", [None, {}, {"price": None}, "not JSON"])
def test_a_run_whose_prices_are_not_known_is_watched_without_dollars(world: Any, record: Any) -> None:
    if isinstance(record, dict):
        world.put_run(**record)
    elif record:
        world.put(f"dev/{RUN}/run.json", record)
    world.put_state("training", "step_10")
    text = watched(world, follow=False)
    assert "training" in text
    assert "$" not in text


def test_the_record_is_read_until_it_names_the_machine_and_then_no_more(world: Any) -> None:
    world.put_run(price=None)
    world.put_state("training", "step_10")
    world.clock.during(10, lambda: world.put_run(price=PRICE, instance=MACHINE))
    for seconds in range(8, 80, 8):
        world.clock.during(seconds, lambda: world.put_state("training", f"step_{world.clock.sleeps}"))
    world.clock.during(80, lambda: (world.end_run("succeeded"), world.drop_state()))
    text = watched(world, poll_seconds=2.0)
    assert "so far" in text
    reads = [name for name in world.s3.calls if name == "get_object"]
    # 81 looks at state, metrics and log; of the record 1, then every 15 s until 20 s, then the end.
    assert len(reads) <= 3 * 81 + 8


# -- at the end ---------------------------------------------------------------------------------------


def test_the_end_says_what_the_run_has_cost(world: Any) -> None:
    world.end_run("succeeded", cost_usd=COST)
    assert "  cost: $1.55 (compute $1.50, disk $0.02, requests $0.0090, address $0.01)\n" in watched(
        world, run_id=RUN
    )


def test_a_lost_run_costs_up_to_its_end_if_ec2_tells_it(world: Any) -> None:
    world.put_run(price=PRICE, instance=MACHINE)
    ended = world.clock.now() + timedelta(hours=2)
    world.clock.pass_time(86400)
    record = finish_record(
        world.s3, world.bucket, "dev", RUN, Fate("gone", "gone", ended), now=world.clock.now
    )
    assert record is not None
    assert (record["cost_usd"]["compute"], record["cost_usd"]["seconds"]) == (1.504, 7200)
    assert "at_most" not in record["cost_usd"]


def test_a_lost_run_whose_end_nobody_saw_cost_no_more_than_to_its_deadline(world: Any) -> None:
    world.put_run(price=PRICE, deadline=to_text(world.clock.now() + timedelta(hours=6)))
    world.clock.pass_time(86400)
    fate = Fate("gone", "gone", instance_ids=("i-0123456789abcdef0",))
    record = finish_record(world.s3, world.bucket, "dev", RUN, fate, now=world.clock.now)
    assert record is not None
    assert record["instance"] == {"id": "i-0123456789abcdef0", "type": "g4dn.2xlarge", "market": "on-demand"}
    assert (record["cost_usd"]["seconds"], record["cost_usd"]["at_most"]) == (21900, True)
    assert "  cost: at most $4.70 (compute $4.57" in watched(world, run_id=RUN)


def test_a_launch_that_never_had_a_machine_cost_nothing(world: Any) -> None:
    world.put_run(price=PRICE)
    record = finish_record(world.s3, world.bucket, "dev", RUN, Fate("gone", "gone"), now=world.clock.now)
    assert record is not None
    assert (record["outcome"], record["cost_usd"]["total"]) == ("launch_failed", 0)


# -- the history --------------------------------------------------------------------------------------


def test_the_history_has_every_runs_cost(world: Any) -> None:
    world.end_run("succeeded", cost_usd=COST)
    world.end_run("lost", run_id="2025-01-14-000000", cost_usd={**COST, "at_most": True})
    world.end_run("succeeded", run_id="2025-01-13-000000")
    world.put_run("2025-01-15-150000", price=PRICE, instance=MACHINE)
    world.put_state("training", "step_3", run_id="2025-01-15-150000")
    world.clock.time = datetime(2025, 1, 15, 16, 0, 0, tzinfo=UTC)
    out = io.StringIO()
    records = list_runs(world.s3, world.bucket, "dev", now=world.clock.now)
    print_runs(records, out)
    assert [record.run_id for record in records] == [
        "2025-01-15-150000",
        RUN,
        "2025-01-14-000000",
        "2025-01-13-000000",
    ]
    assert "COST" in out.getvalue().splitlines()[0]
    assert [total(record) for record in records] == [
        pytest.approx(0.773, abs=0.001),
        1.545222,
        1.545222,
        None,
    ]
    assert "at most $1.55" in out.getvalue()
    out = io.StringIO()
    print_runs(records, out, as_json=True)
    assert json.loads(out.getvalue())[1]["cost_usd"] == COST


def total(record: RunRecord) -> Any:
    return record.cost_usd["total"] if record.cost_usd else None


# -- added up -----------------------------------------------------------------------------------------


def record(run_id: str, outcome: str = "succeeded", environment: str = "dev", **changes: Any) -> RunRecord:
    cost = {**COST, **changes} if changes.pop("known", True) else None
    return RunRecord(run_id=run_id, environment=environment, outcome=outcome, cost_usd=cost)


def test_costs_are_added_up_by_environment_and_outcome() -> None:
    sums = add_up(
        [
            record("a"),
            record("b"),
            record("c", "failed", total=0.5, compute=0.4, seconds=1800),
            record("d", environment="prod"),
            record("e", "lost", at_most=True),
            record("f", "lost", known=False),
            record("g", "running", total=None),
        ]
    )
    assert [(each.environment, each.outcome, each.runs, each.total) for each in sums] == [
        ("dev", "failed", 1, 0.5),
        ("dev", "lost", 2, 1.545222),
        ("dev", "running", 1, 1.545222),
        ("dev", "succeeded", 2, 3.090444),
        ("prod", "succeeded", 1, 1.545222),
    ]
    together = grand_total(sums)
    assert (together.runs, together.hours, together.total) == (7, 10.5, 8.22611)
    assert (together.at_most, together.unknown) == (1, ("f", "g"))


def test_the_sums_are_a_table_with_what_is_not_in_it() -> None:
    out = io.StringIO()
    print_costs(add_up([record("a"), record("b", "lost", at_most=True), record("c", "running")]), out)
    lines = out.getvalue().splitlines()
    assert lines[0].split() == [
        "ENVIRONMENT",
        "OUTCOME",
        "RUNS",
        "HOURS",
        "COMPUTE",
        "DISK",
        "REQUESTS",
        "ADDRESS",
        "TOTAL",
    ]
    assert lines[3].split() == ["dev", "succeeded", "1", "2.0", "$1.50", "$0.02", "$0.0090", "$0.01", "$1.55"]
    assert lines[4].split() == ["all", "3", "6.0", "$4.51", "$0.07", "$0.03", "$0.03", "$4.64"]
    assert lines[5] == "runs that go on, counted so far: 1"
    assert lines[6] == "runs whose end nobody saw, counted at the most they can have cost: 1"
    assert "S3" in lines[7]


def test_runs_of_unknown_cost_are_named() -> None:
    out = io.StringIO()
    print_costs(add_up([record(str(number), known=False) for number in range(7)]), out)
    assert "nobody knows all that they cost: 0, 1, 2, 3, 4 and 2 more" in out.getvalue()
    assert out.getvalue().splitlines()[1].endswith("not known")


def test_what_is_known_of_a_cost_counts_and_the_sum_says_that_it_is_not_all() -> None:
    whole = record("a")
    partly = replace(whole, run_id="b", cost_usd={**(whole.cost_usd or {}), "address": None, "total": None})
    out = io.StringIO()
    print_costs(add_up([whole, partly]), out)
    line = out.getvalue().splitlines()[1]
    assert line.split()[3:] == ["4.0", "$3.01", "$0.04", "$0.02", "$0.01", "at", "least", "$3.08"]


def test_no_runs_are_said_so() -> None:
    out = io.StringIO()
    print_costs([], out)
    print_costs([], out, since=NOW)
    assert out.getvalue() == "no runs yet\nno runs since 2025-01-31T12:00:00Z\n"


def test_the_sums_as_json() -> None:
    out = io.StringIO()
    print_costs(add_up([record("a"), record("b", known=False)]), out, since=NOW, as_json=True)
    shown = json.loads(out.getvalue())
    assert shown["since"] == "2025-01-31T12:00:00Z"
    assert shown["total"]["total"] == shown["sums"][0]["total"] == 1.545222
    assert shown["total"]["unknown"] == ["b"]


def test_of_no_sums_nothing_was_spent() -> None:
    assert grand_total([]) == Sum(environment="all", outcome="")


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        (None, None),
        ("", None),
        ("2024-11-01", datetime(2024, 11, 1, tzinfo=UTC)),
        ("7d", NOW - timedelta(days=7)),
        ("12h", NOW - timedelta(hours=12)),
        ("2w", NOW - timedelta(weeks=2)),
    ],
)
def test_a_period_begins_on_a_day_or_so_long_ago(text: str | None, beginning: datetime | None) -> None:
    assert parse_since(text, NOW) == beginning


@pytest.mark.parametrize("text", ["yesterday", "7", "d", "-7d", "2024-13-01", "2024-11-01T00:00", "99999d"])
def test_another_period_is_an_error(text: str) -> None:
    with pytest.raises(UsageProblem, match="--since"):
        parse_since(text, NOW)


def test_only_runs_from_then_on_are_read(world: Any) -> None:
    for run_id in ("2025-01-01-000000", "2025-01-10-000000", "2025-01-10-000001"):
        world.end_run("succeeded", run_id=run_id, cost_usd=COST)
    since = datetime(2025, 1, 10, tzinfo=UTC)
    found = list_runs(world.s3, world.bucket, "dev", since=since, now=world.clock.now)
    assert [one.run_id for one in found] == ["2025-01-10-000001", "2025-01-10-000000"]
