"""Runs without an end: what EC2 proves, and how the record is completed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chronos_ec2.errors import StorageDenied
from chronos_ec2.state.clock import from_text, to_text
from chronos_ec2.workstation.outcome import (
    REASONS,
    Fate,
    finish_record,
    instance_fate,
    nodes_of,
    phase_of_step,
)
from chronos_ec2.workstation.s3 import RecordUnreadable

RUN = "2025-01-15-143022"
GONE = Fate("gone", "i-1 is terminated: AWS took the spot machine back (Server.SpotInstanceTermination)")


def ask(world: Any, instance_id: str | None = None, **more: Any) -> Fate:
    return instance_fate(world.ec2, "dev", RUN, instance_id, now=world.clock.now, **more)


@pytest.mark.parametrize(
    "error",
    ["UnauthorizedOperation", "RequestLimitExceeded", EndpointConnectionError(endpoint_url="https://ec2")],
)
def test_an_ec2_that_cannot_be_asked_proves_nothing(world: Any, error: Any) -> None:
    world.ec2.fail("get_paginator", error)
    fate = ask(world, "i-0123456789abcdef0")
    assert fate.state == "unknown"
    assert "could not be asked" in fate.words


def test_an_unknown_instance_is_gone(world: Any) -> None:
    fate = ask(world, "i-0123456789abcdef0")
    assert fate.state == "gone"
    assert "i-0123456789abcdef0" in fate.words


def test_a_run_without_an_instance_is_gone_once_it_had_time_to_show_up(world: Any) -> None:
    started = world.clock.now()
    assert ask(world, started_at=started).state == "unknown"
    world.clock.pass_time(200)
    fate = ask(world, started_at=started)
    assert (fate.state, "never created" in fate.words) == ("gone", True)


def test_an_instance_is_found_by_its_tags_when_its_id_is_not_known(world: Any) -> None:
    instance = world.start_instance()
    world.start_instance("2025-01-15-150000")
    world.start_instance(environment="prod")
    fate = ask(world)
    assert (fate.state, fate.instance_ids) == ("running", (instance,))


def test_a_run_of_several_machines_is_gone_when_all_of_them_are(world: Any) -> None:
    first, second = world.start_instance(), world.start_instance()
    assert ask(world, first, nodes=2).instance_ids == (first, second)
    world.terminate(first)
    fate = ask(world, first, nodes=2)
    assert (fate.state, fate.ended_ids) == ("running", (first,))
    world.terminate(second)
    assert ask(world, first, nodes=2).state == "gone"


def test_a_machine_that_ec2_does_not_show_yet_may_live(world: Any) -> None:
    started = world.clock.now()
    world.terminate(world.start_instance())
    assert ask(world, nodes=2, started_at=started).state == "unknown"
    world.clock.pass_time(200)
    assert ask(world, nodes=2, started_at=started).state == "gone"


@pytest.mark.parametrize(
    ("state", "record", "nodes"),
    [
        (None, None, 1),
        ({"control": {}}, {"config": {"nodes": 1}}, 1),
        ({"control": {"nodes": 3}}, None, 3),
        (None, {"config": {"nodes": 2}}, 2),
        (None, {"config": {"nodes": "2"}}, 1),
        (None, {"config": None}, 1),
    ],
)
def test_how_many_machines_a_run_has_is_in_its_state_or_its_record(
    state: Any, record: Any, nodes: int
) -> None:
    assert nodes_of(state, record) == nodes


def test_a_terminated_instance_is_gone_with_its_reason_in_words(world: Any) -> None:
    instance = world.start_instance()
    world.terminate(instance)
    fate = ask(world, instance)
    assert fate.state == "gone"
    assert REASONS["Client.UserInitiatedShutdown"] in fate.words
    assert "its own cleanup, invoke kill, " in fate.words, "a machine that cannot write its end is seen so"
    assert fate.ended_at is not None


def test_one_living_instance_of_several_keeps_the_run_alive(world: Any) -> None:
    dead, alive = world.start_instance(), world.start_instance()
    world.terminate(dead)
    fate = ask(world)
    assert fate.state == "running"
    assert alive in fate.words and dead not in fate.words


def test_an_instance_that_shuts_down_is_not_gone_yet() -> None:
    class Ec2:
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, **_: Any) -> Any:
            state = {"InstanceId": "i-1", "State": {"Name": "shutting-down"}}
            return [{"Reservations": [{"Instances": [state]}]}]

    fate = instance_fate(Ec2(), "dev", RUN, "i-1")  # type: ignore[arg-type]
    assert (fate.state, fate.words) == ("running", "i-1 is shutting-down")


def test_a_reason_that_is_not_known_is_shown_as_ec2_gives_it() -> None:
    class Ec2:
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, **_: Any) -> Any:
            reason = {"Code": "Server.New", "Message": "Server.New: something new"}
            state = {"InstanceId": "i-1", "State": {"Name": "terminated"}, "StateReason": reason}
            bare = {"InstanceId": "i-2", "State": {"Name": "terminated"}}
            return [{"Reservations": [{"Instances": [state, bare]}]}]

    fate = instance_fate(Ec2(), "dev", RUN, "i-1")  # type: ignore[arg-type]
    assert "something new (Server.New)" in fate.words
    assert "i-2 is terminated: no reason given" in fate.words


def finish(world: Any, fate: Fate = GONE, **more: Any) -> dict[str, Any] | None:
    return finish_record(world.s3, world.bucket, "dev", RUN, fate, now=world.clock.now, **more)


def test_a_run_whose_machine_is_gone_is_recorded_as_lost(world: Any) -> None:
    world.put_run(deadline="2025-01-16T00:00:00Z")
    finish(world, state={"current_step": "step_120", "status": "training"})
    record = world.run_document()
    assert (record["outcome"], record["failed_step"]) == ("lost", "training")
    assert record["error"] == GONE.words
    assert from_text(record["ended_at"]) == world.clock.now()
    assert record["deadline"] == "2025-01-16T00:00:00Z"


def test_an_end_that_nobody_saw_was_at_the_deadline_at_the_latest(world: Any) -> None:
    world.put_run(deadline=to_text(world.clock.now() - timedelta(days=10)))
    finish(world)
    ended = from_text(world.run_document()["ended_at"])
    assert ended == world.clock.now() - timedelta(days=10) + timedelta(minutes=5)


def test_the_end_is_when_ec2_says_it_was(world: Any) -> None:
    world.put_run()
    ended = world.clock.now() - timedelta(hours=2)
    finish(world, Fate("gone", "x", ended))
    assert from_text(world.run_document()["ended_at"]) == ended


@pytest.mark.parametrize(
    "state",
    [
        {"status": "killed", "current_step": "training"},
        {"status": "failed", "current_step": "data_sync", "error_message": "killed by operator"},
        {"status": "cleanup", "current_step": "cleanup", "error_message": "killed by operator"},
    ],
)
def test_a_run_that_was_being_killed_is_recorded_as_killed(world: Any, state: dict[str, Any]) -> None:
    world.put_run()
    finish(world, state=state)
    assert world.run_document()["outcome"] == "killed"


@pytest.mark.parametrize("state", ["running", "unknown"])
def test_nothing_is_written_without_proof(world: Any, state: Any) -> None:
    world.put_run()
    finish(world, Fate(state, "words"))
    assert world.run_document()["outcome"] is None


def test_an_end_that_is_there_is_left_alone(world: Any) -> None:
    world.end_run("succeeded")
    before = world.get(f"dev/{RUN}/run.json")
    found = finish(world)
    assert found is not None and found["outcome"] == "succeeded"
    assert world.get(f"dev/{RUN}/run.json") == before


def test_an_end_written_at_the_same_moment_wins(world: Any) -> None:
    world.put_run()
    real = world.real_s3.put_object

    class Racing:
        def get_object(self, **wanted: Any) -> Any:
            return world.real_s3.get_object(**wanted)

        def put_object(self, **wanted: Any) -> Any:
            world.end_run("succeeded")
            return real(**wanted)

    found = finish_record(Racing(), world.bucket, "dev", RUN, GONE, now=world.clock.now)  # type: ignore[arg-type]
    assert found is not None and found["outcome"] == "succeeded"
    assert world.run_document()["outcome"] == "succeeded"


def test_a_missing_record_is_not_made_up(world: Any) -> None:
    assert finish(world) is None
    assert world.keys() == []


def test_a_broken_record_is_left_alone(world: Any) -> None:
    world.put(f"dev/{RUN}/run.json", b"{half")
    with pytest.raises(RecordUnreadable):
        finish(world)
    assert world.get(f"dev/{RUN}/run.json") == b"{half"


def test_a_refused_write_is_said(world: Any) -> None:
    world.put_run()
    world.s3.fail("put_object", "AccessDenied")
    with pytest.raises(StorageDenied, match="PutObject"):
        finish(world)


@pytest.mark.parametrize(
    ("step", "phase"), [("step_120", "training"), ("epoch_5", "training"), ("data_sync", "data_sync")]
)
def test_a_step_belongs_to_a_phase(step: str, phase: str) -> None:
    assert phase_of_step(step) == phase


@pytest.mark.parametrize("state", [None, {"current_step": "launch", "status": "initialization"}])
def test_a_run_whose_launcher_died_before_it_had_a_machine_is_a_failed_launch(
    world: Any, state: dict[str, Any] | None
) -> None:
    world.put_run(instance={"id": None, "type": "g4dn.2xlarge"})
    finish(world, Fate("gone", "EC2 does not know it"), state=state)
    record = world.run_document()
    assert (record["outcome"], record["failed_step"]) == ("launch_failed", "launch")
    assert record["error"] == "the launcher ended before the run had an instance; EC2 does not know it"


def test_a_machine_that_nobody_had_recorded_makes_it_a_lost_run(world: Any) -> None:
    world.put_run(instance={"id": None, "type": "g4dn.2xlarge"})
    finish(world, Fate("gone", "i-1 is terminated", instance_ids=("i-1",)))
    assert world.run_document()["outcome"] == "lost"
