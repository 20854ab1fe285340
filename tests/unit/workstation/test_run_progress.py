"""How far a run has come: from its metrics' parts, its record and the tail of its log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.metrics_log import PART_BYTES, WHOLE, part_name
from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.run_metrics import PartsReader, read_metrics
from chronos_ec2.workstation.run_progress import MAX_LOSSES, Fetched, Tracker, fetched_so_far, total_steps

NOW = datetime(2025, 1, 15, 15, 0, 0, tzinfo=UTC)
PREFIX = "dev/2025-01-15-143022/"
DOCUMENT = {
    "config": {"trainer": "chronos", "training_config": {"max_steps": 300}},
    "environment_archive": {"bytes": 400},
    "dataset": {"files": [{"bytes": 10}, {"bytes": 20}]},
}


def metric(step: int, seconds: float = 0, **more: Any) -> dict[str, Any]:
    return {"event": "metric", "step": step, "t": to_text(NOW + timedelta(seconds=seconds)), **more}


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


# -- parts


def test_parts_are_read_as_they_grow_and_each_record_comes_once(world: Any) -> None:
    reader = PartsReader(world.s3, world.bucket, PREFIX)
    assert list(reader.new_records()) == []
    world.put(PREFIX + part_name(1), lines(metric(1)) + b'{"event": "met')
    assert [record["step"] for record in reader.new_records()] == [1]
    assert list(reader.new_records()) == []
    world.put(PREFIX + part_name(1), lines(metric(1), metric(2)))
    assert [record.get("step") for record in reader.new_records()] == [2]
    filler = {"source": "sampler", "fill": "x" * PART_BYTES}
    world.put(PREFIX + part_name(1), lines(metric(1), metric(2), filler))
    world.put(PREFIX + part_name(2), lines(metric(3)))
    assert [record.get("step") for record in reader.new_records()] == [None, 3]
    world.put(PREFIX + part_name(2), lines(metric(3), metric(4)))
    assert [record["step"] for record in reader.new_records()] == [4]


def test_a_look_at_which_nothing_has_come_is_one_request(world: Any) -> None:
    world.put(PREFIX + part_name(1), lines(metric(1)))
    reader = PartsReader(world.s3, world.bucket, PREFIX)
    list(reader.new_records())
    world.s3.calls.clear()
    assert list(reader.new_records()) == []
    assert world.s3.calls == ["get_object"]


def test_what_an_outage_hid_comes_at_the_next_look(world: Any) -> None:
    world.put(PREFIX + part_name(1), lines(metric(1)))
    reader = PartsReader(world.s3, world.bucket, PREFIX)
    world.s3.fail("get_object", "SlowDown")
    with pytest.raises(Exception, match="just now"):
        list(reader.new_records())
    assert [record["step"] for record in reader.new_records()] == [1]


def test_the_whole_file_is_read_once_it_is_there_and_the_parts_of_a_crash_until_then(world: Any) -> None:
    world.put(PREFIX + part_name(1), lines(metric(1)))
    assert [row["step"] for row in read_metrics(world.s3, world.bucket, PREFIX).training] == [1]
    world.put(PREFIX + WHOLE, lines(metric(1), metric(2)))
    assert [row["step"] for row in read_metrics(world.s3, world.bucket, PREFIX).training] == [1, 2]


# -- progress


def test_steps_pace_and_loss_come_from_the_trainers_lines() -> None:
    tracker = Tracker()
    tracker.take([metric(step, step / 10, loss=1 / step) for step in range(10, 110, 10)])
    seen = tracker.progress(DOCUMENT, "step_90", (), NOW + timedelta(seconds=10))
    assert (seen.step, seen.total_steps, seen.share) == (100, 300, pytest.approx(1 / 3))
    assert seen.seconds_left == pytest.approx(20, rel=0.2)
    assert (seen.losses[0], seen.losses[-1]) == (0.1, 0.01)
    later = tracker.progress(DOCUMENT, "step_150", (), NOW + timedelta(seconds=15))
    assert later.step == 150 and later.seconds_left == pytest.approx(15, rel=0.3)


def test_the_pace_is_that_of_the_last_two_minutes() -> None:
    tracker = Tracker()
    tracker.take([metric(1, -3600), metric(100, 0), metric(160, 60)])  # it began slowly
    assert tracker.progress(DOCUMENT, None, (), NOW + timedelta(seconds=60)).seconds_left == 140


def test_steps_that_take_minutes_have_a_pace_as_well() -> None:
    tracker = Tracker()
    tracker.take([metric(number * 10, number * 150) for number in range(11)])
    seen = tracker.progress(DOCUMENT, None, (), NOW + timedelta(seconds=1500))
    assert seen.seconds_left == pytest.approx(200 * 15)


def test_nobody_knows_how_long_a_training_takes_that_says_nothing_any_more() -> None:
    tracker = Tracker()
    tracker.take([metric(step, step) for step in range(140, 151)])
    late = [tracker.progress(DOCUMENT, None, (), NOW + timedelta(seconds=150 + s)) for s in (50, 500)]
    assert late[0].seconds_left == pytest.approx(100) and late[1].seconds_left is None


def test_the_first_and_the_least_loss_outlive_the_thinning() -> None:
    tracker = Tracker()
    losses = [100.0, *([50.0] * 3000), 1.0, *([50.0] * 3000)]
    tracker.take(metric(step, loss=loss) for step, loss in enumerate(losses))
    seen = tracker.progress(DOCUMENT, None, (), NOW)
    assert (seen.first_loss, seen.least_loss) == (100.0, 1.0)


@pytest.mark.parametrize(
    "odd", [{"step": 10**400}, {"loss": 10**400, "step": 1}, {"step": 1, "t": "0001-01-01T00:00:00+05:00"}]
)
def test_what_no_clock_and_no_counter_can_hold_ends_no_watch(odd: dict[str, Any]) -> None:
    tracker = Tracker()
    tracker.take([{"event": "metric", **odd}, metric(7, loss=0.5)])
    assert tracker.progress(DOCUMENT, None, (), NOW).step == 7


def test_a_command_of_ones_own_has_no_known_end() -> None:
    command = {"config": {"trainer": "command", "training_config": {"max_steps": 300}}}
    tracker = Tracker()
    tracker.take([metric(1, 0), metric(2, 60)])
    seen = tracker.progress(command, None, (), NOW)
    assert (seen.step, seen.total_steps, seen.share, seen.seconds_left) == (2, None, None, None)
    assert total_steps(None) is None and total_steps({"config": "odd"}) is None


def test_a_million_losses_are_thinned_and_the_newest_stays() -> None:
    tracker = Tracker()
    tracker.take({"event": "metric", "step": step, "loss": step} for step in range(100_000))
    losses = tracker.progress(None, None, (), NOW).losses
    assert MAX_LOSSES // 2 <= len(losses) <= MAX_LOSSES
    assert losses[-1] == 99_999 and list(losses) == sorted(losses)


def test_numbers_that_are_none_are_no_loss_and_odd_records_no_crash() -> None:
    tracker = Tracker()
    odd = [{"event": "metric", "loss": None, "step": "x"}, {"source": "sampler", "gpus": "x"}, {}]
    tracker.take([*odd, {"source": "sampler", "gpus": [1, {"util_percent": "x"}]}, {"source": "kernel"}])
    assert tracker.progress({"dataset": 1}, "odd", (), NOW).losses == ()


def test_idleness_is_told_until_a_gpu_works_again() -> None:
    tracker = Tracker()
    tracker.take([{"source": "sampler", "event": "idle_gpu", "minutes": 20.0}])
    tracker.take([{"source": "sampler", "phase": "training", "gpus": [{"util_percent": 0}]}])
    assert tracker.progress(None, None, (), NOW).idle_minutes == 20
    tracker.take([{"source": "sampler", "phase": "training", "gpus": [{"util_percent": 90}]}])
    assert tracker.progress(None, None, (), NOW).idle_minutes is None


def test_bytes_come_from_the_newest_line_that_tells_them() -> None:
    log = [
        "2025-01-15T14:30:22Z INFO  fetched so far: environment 100 bytes",
        "2025-01-15T14:30:32Z INFO  fetched so far: environment 500 bytes data 12 bytes",
        "2025-01-15T14:30:33Z INFO  phase gpu_preflight",
    ]
    assert fetched_so_far(DOCUMENT, log) == {"environment": Fetched(400, 400), "data": Fetched(12, 30)}
    assert Fetched(500, 400).share == 1.0 and Fetched(5, None).share is None
    assert fetched_so_far(None, log) == {"environment": Fetched(500, None), "data": Fetched(12, None)}
    assert fetched_so_far(DOCUMENT, log[2:]) is None
