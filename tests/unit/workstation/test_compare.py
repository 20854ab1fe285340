"""Runs side by side: every fact of each, what differs marked, and a table that fits a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from chronos_ec2.errors import NoSuchRun, UsageProblem
from chronos_ec2.workstation.compare import Row, compare, print_comparison

FIRST, SECOND, THIRD = "2025-01-13-080000", "2025-01-14-080000", "2025-01-15-143022"


def put(world: Any, run_id: str, *, rate: float = 1e-4, wql: float | None = 0.17, **changes: Any) -> None:
    """A run with a record and, where it has a WQL, with training.json."""
    facts = {
        "config": {
            "run_id": run_id,
            "training_config": {"learning_rate": rate, "max_steps": 300},
            "command": [],
        },
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "cost_usd": {"total": 1.5},
        "instance": {"id": f"i-{run_id[-6:]}", "type": "g4dn.2xlarge", "market": "spot"},
        "dataset": {"series": 3, "rows": 26115, "manifest_sha256": "aa"},
    }
    world.end_run(**{"outcome": "succeeded", "run_id": run_id, **facts, **changes})
    if wql is not None:
        world.put(f"dev/{run_id}/training.json", {"metrics": {"WQL": wql}, "versions": {"torch": "2.13.0"}})


def rows_of(world: Any, *run_ids: str) -> dict[str, Row]:
    return {row.name: row for row in compare(world.s3, world.bucket, "dev", run_ids)}


def printed(world: Any, *run_ids: str, **options: Any) -> str:
    out = io.StringIO()
    print_comparison(compare(world.s3, world.bucket, "dev", run_ids), run_ids, out, **options)
    return out.getvalue()


def test_what_was_asked_and_what_came_of_it_stand_side_by_side(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, rate=1e-5, wql=0.12, git={"commit": "0123456789abcdef", "dirty": True})
    rows = rows_of(world, FIRST, SECOND)
    assert rows["metrics.WQL"].values == ("0.17", "0.12")
    assert rows["config.training_config.learning_rate"].values == ("0.0001", "1e-05")
    assert rows["git.commit"].values == ("0123456789ab", "0123456789ab+")
    assert rows["cost"].values == ("$1.50", "$1.50")
    assert rows["versions.torch"].values == ("2.13.0", "2.13.0")
    assert {name for name, row in rows.items() if row.differs} == {
        *("duration", "metrics.WQL", "config.training_config.learning_rate", "git.commit"),
    }
    assert "config.run_id" not in rows


def test_the_order_is_the_callers(world: Any) -> None:
    for run_id, wql in ((FIRST, 0.1), (SECOND, 0.2), (THIRD, 0.3)):
        put(world, run_id, wql=wql)
    assert rows_of(world, THIRD, FIRST, SECOND)["metrics.WQL"].values == ("0.3", "0.1", "0.2")


def test_a_run_that_failed_has_gaps_where_the_other_has_results(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, outcome="failed", wql=None, error="exit 3", failed_step="training", cost_usd=None)
    rows = rows_of(world, FIRST, SECOND)
    assert rows["outcome"].values == ("succeeded", "failed")
    assert rows["error"].values == (None, "exit 3")
    assert rows["metrics.WQL"].values == ("0.17", None)
    assert rows["cost"].values == ("$1.50", None)


def test_a_run_that_goes_on_can_be_compared(world: Any) -> None:
    put(world, FIRST)
    world.put_run(SECOND, config={"seed": 1})
    rows = rows_of(world, FIRST, SECOND)
    assert rows["duration"].values[1] is None and rows["config.seed"].values == (None, "1")


def test_without_training_json_the_records_own_metrics_count(world: Any) -> None:
    put(world, FIRST, wql=None, metrics={"WQL": 0.5})
    put(world, SECOND)
    assert rows_of(world, FIRST, SECOND)["metrics.WQL"].values == ("0.5", "0.17")


def test_fewer_than_two_runs_are_refused(world: Any) -> None:
    put(world, FIRST)
    with pytest.raises(UsageProblem, match="two different run ids"):
        rows_of(world, FIRST, FIRST)


def test_a_run_that_is_not_there_is_named_with_those_that_are(world: Any) -> None:
    put(world, FIRST)
    with pytest.raises(NoSuchRun, match=f"no run {SECOND}; it has {FIRST}"):
        rows_of(world, FIRST, SECOND)


def test_only_differences_are_printed_and_the_rest_is_counted(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, wql=0.12)
    text = printed(world, FIRST, SECOND)
    lines = text.splitlines()
    assert lines[0].split() == [FIRST, SECOND]
    assert [line.split() for line in lines[1:-1] if "WQL" in line] == [["*", "metrics.WQL", "0.17", "0.12"]]
    assert "learning_rate" not in text
    assert lines[-1].endswith("facts are the same in all of them (--everything shows them)")


def test_with_everything_a_mark_stands_where_runs_differ(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, wql=0.12)
    lines = printed(world, FIRST, SECOND, everything=True).splitlines()
    marks = {line.split()[-3]: line.startswith("*") for line in lines[1:] if len(line.split()) >= 3}
    assert marks["metrics.WQL"] and not marks["config.training_config.max_steps"]
    assert "the same in all" not in lines[-1]


def test_the_columns_stand_under_each_other(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, outcome="failed", error="x" * 500 + "\n\x1b[31mred", failed_step="training")
    lines = printed(world, FIRST, SECOND).splitlines()
    column = lines[0].index(SECOND)
    assert all(line[column - 1] == " " and line[column] != " " for line in lines[1:-1])
    assert not any("\x1b" in line for line in lines) and max(map(len, lines)) <= 120


def test_json_has_every_fact(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, wql=0.12)
    found = json.loads(printed(world, FIRST, SECOND, as_json=True))
    assert found["runs"] == [FIRST, SECOND]
    facts = {fact["name"]: fact for fact in found["facts"]}
    assert facts["metrics.WQL"] == {"name": "metrics.WQL", "values": ["0.17", "0.12"], "differs": True}
    assert facts["config.training_config.max_steps"]["differs"] is False


def test_what_cannot_be_read_costs_its_facts_alone(world: Any) -> None:
    put(world, FIRST)
    put(world, SECOND, cost_usd={"total": 4.69, "at_most": True})
    world.put(f"dev/{SECOND}/training.json", b"junk")
    rows = rows_of(world, FIRST, SECOND)
    assert rows["metrics.WQL"].values == ("0.17", None)
    assert rows["cost"].values == ("$1.50", "at most $4.69")


def test_a_run_that_left_files_and_no_record_is_said_so(world: Any) -> None:
    put(world, FIRST)
    world.put(f"dev/{SECOND}/config.yaml", b"x")
    with pytest.raises(NoSuchRun, match=r"no run\.json"):
        rows_of(world, FIRST, SECOND)


def test_of_long_values_that_part_is_shown_in_which_they_differ() -> None:
    shown = ["python3", "-m", "my_trainer", "--data", "{data}", "--output", "{output}", "--lr"]
    rows = [Row("config.command", tuple(json.dumps([*shown, rate, "--more"]) for rate in ("0.1", "0.2")))]
    out = io.StringIO()
    print_comparison(rows, ["a", "b"], out)
    line = out.getvalue().splitlines()[1]
    assert "0.1" in line and "0.2" in line
    assert len(line) < 110
