"""A long history: what is listed of it, and how few requests that takes."""

from __future__ import annotations

import io
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import UsageProblem
from chronos_ec2.workstation.history_cache import HistoryCache
from chronos_ec2.workstation.run_record import RunRecord, check_outcomes
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.runs_table import print_runs

START = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)


def put(world: Any, number: int, **changes: Any) -> str:
    """A run that ended, `number` hours after the first."""
    began = START + timedelta(hours=number)
    run_id = f"{began:%Y-%m-%d-%H%M%S}"
    body = {
        "run_id": run_id,
        "outcome": "succeeded",
        "started_at": f"{began:%Y-%m-%dT%H:%M:%SZ}",
        "ended_at": f"{began:%Y-%m-%dT%H}:59:00Z",
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "metrics": {"WQL": 0.1, "MASE": 0.8, "baselines": {"seasonal_naive": {"WQL": 0.2, "MASE": 1.0}}},
        **changes,
    }
    world.real_s3.put_object(Bucket=world.bucket, Key=f"dev/{run_id}/run.json", Body=json.dumps(body))
    return run_id


def listed(world: Any, **narrowed: Any) -> tuple[list[RunRecord], list[str]]:
    """The runs, and the calls that they took."""
    world.s3.calls.clear()
    found = list_runs(world.s3, world.bucket, "dev", now=world.clock.now, **narrowed)
    return found, list(world.s3.calls)


@pytest.fixture
def cache(world: Any, tmp_path: Path) -> HistoryCache:
    return HistoryCache(tmp_path / "kept" / "history.sqlite", world.bucket, "dev")


def test_a_record_that_has_its_end_is_read_once(world: Any, cache: HistoryCache) -> None:
    for number in range(5):
        put(world, number)
    going = put(world, 5, outcome=None, ended_at=None)
    first, calls = listed(world, cache=cache)
    assert calls.count("get_object") == 1 + 6  # the state file, and each record
    again, calls = listed(world, cache=cache)
    assert calls.count("get_object") == 1 + 1
    assert again == first
    put(world, 5, outcome="failed")
    assert listed(world, cache=cache)[0][0].outcome == "failed"
    assert listed(world, cache=cache)[1].count("get_object") == 1
    assert going == first[0].run_id


def test_a_run_that_was_deleted_is_not_listed_from_memory(world: Any, cache: HistoryCache) -> None:
    kept, gone = put(world, 0), put(world, 1)
    listed(world, cache=cache)
    world.real_s3.delete_object(Bucket=world.bucket, Key=f"dev/{gone}/run.json")
    assert [record.run_id for record in listed(world, cache=cache)[0]] == [kept]


def test_another_environments_records_are_not_taken(world: Any, cache: HistoryCache, tmp_path: Path) -> None:
    run_id = put(world, 0)
    listed(world, cache=cache)
    other = HistoryCache(tmp_path / "kept" / "history.sqlite", world.bucket, "prod")
    assert cache.find([run_id]).keys() == {run_id}
    assert other.find([run_id]) == {}


@pytest.mark.parametrize("body", [b"", b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_broken_memory_costs_requests_alone(
    world: Any, cache: HistoryCache, tmp_path: Path, body: bytes
) -> None:
    put(world, 0)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "history.sqlite").write_bytes(body)
    for _ in range(3):
        assert [record.outcome for record in listed(world, cache=cache)[0]] == ["succeeded"]
    assert listed(world, cache=cache)[1].count("get_object") == 1, "mended by itself"


def test_a_memory_that_another_holds_is_done_without(
    world: Any, cache: HistoryCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronos_ec2.workstation.history_cache._PATIENCE_SECONDS", 0.0)
    put(world, 0)
    listed(world, cache=cache)
    put(world, 1)
    holder = sqlite3.connect(tmp_path / "kept" / "history.sqlite")
    holder.execute("begin exclusive")
    assert len(listed(world, cache=cache)[0]) == 2
    holder.close()
    assert len(cache.find([put(world, 0)])) == 1, "nothing was thrown away"


def test_a_limit_reads_no_more_records_than_it_needs(world: Any) -> None:
    ids = [put(world, number) for number in range(60)]
    found, calls = listed(world, limit=5)
    assert [record.run_id for record in found] == ids[:-6:-1]
    assert calls.count("get_object") <= 1 + 24


def test_outcomes_are_looked_for_past_the_first_records(world: Any) -> None:
    failed = [put(world, number, outcome="failed") for number in (3, 7)]
    for number in range(10, 60):
        put(world, number)
    assert [record.run_id for record in listed(world, limit=5, outcomes={"failed", "lost"})[0]] == failed[
        ::-1
    ]
    assert [record.run_id for record in listed(world, limit=1, outcomes={"failed"})[0]] == failed[:0:-1]


def test_what_is_before_since_is_not_even_listed(world: Any) -> None:
    ids = [put(world, number) for number in range(4)]
    asked: list[str] = []

    def listen(params: dict[str, str], **_: object) -> None:
        asked.append(params["StartAfter"])

    events = world.real_s3.meta.events
    events.register("before-parameter-build.s3.ListObjectsV2", listen)
    found, _ = listed(world, since=START + timedelta(hours=2))
    events.unregister("before-parameter-build.s3.ListObjectsV2", listen)  # other tests share the client
    assert [record.run_id for record in found] == ids[:1:-1]
    assert asked == [f"dev/{ids[2]}"]


def test_a_figure_that_no_run_has_is_told(world: Any) -> None:
    world.end_run("succeeded", metrics={"WQL": 0.1, "MASE": 0.8})
    out = io.StringIO()
    print_runs(listed(world)[0], out, metric="wql")
    assert "none of these runs has the figure 'wql'; they have MASE, WQL" in out.getvalue()


def test_the_table_shows_commit_and_the_metric_that_is_asked_for(world: Any) -> None:
    put(world, 0)
    out = io.StringIO()
    print_runs(listed(world)[0], out, metric="MASE")
    heading, row = out.getvalue().splitlines()[:2]
    assert heading.split()[-4:] == ["MASE", "BASELINE", "INSTANCE", "COMMIT"]
    assert row.split()[-4:] == ["0.8000", "1.0000", "-", "01234567+"]


def test_an_empty_list_of_some_does_not_say_that_there_is_no_run() -> None:
    out = io.StringIO()
    print_runs([], out, filtered=True)
    assert out.getvalue() == "no run like that\n"


def test_an_outcome_that_no_run_has_is_named_with_those_there_are() -> None:
    assert check_outcomes(["lost", "failed"]) == {"failed", "lost"}
    with pytest.raises(UsageProblem, match="'suceeded', need one of running, succeeded"):
        check_outcomes(["suceeded"])
