"""Runs whose spot machine EC2 took back: told apart from lost ones, with the way on."""

from __future__ import annotations

import io
from typing import Any

import pytest

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.next_step import ec2_warning, next_command, unfinished
from chronos_ec2.workstation.outcome import Fate, finish_record, instance_fate
from chronos_ec2.workstation.run_record import RunRecord
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.runs_table import print_runs
from chronos_ec2.workstation.watch import watch

RUN, LATER = "2025-01-15-143022", "2025-01-15-160000"
TAKEN = Fate("gone", "i-1 is terminated: AWS took the spot machine back", taken_back=True)
TRAINING = {"current_step": "step_120", "status": "training", "instance_id": "i-1"}


def finish(world: Any, fate: Fate, **state: Any) -> dict[str, Any]:
    world.put_run(instance={"id": "i-1", "type": "g5.xlarge", "market": "spot"})
    finish_record(world.s3, world.bucket, "dev", RUN, fate, state={**TRAINING, **state}, now=world.clock.now)
    found: dict[str, Any] = world.run_document()
    return found


def ended(outcome: str, **more: Any) -> RunRecord:
    return RunRecord(run_id=RUN, environment="dev", outcome=outcome, **more)


def save(world: Any, step: int) -> None:
    world.put(f"dev/{RUN}/checkpoints/checkpoint-{step}/manifest.json", "{}")


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        ("Server.SpotInstanceTermination", True),
        ("Server.SpotInstanceShutdown", True),
        ("Client.UserInitiatedShutdown", False),
    ],
)
def test_ec2s_reason_tells_a_machine_that_was_taken_back(code: str, taken: bool) -> None:
    class Ec2:
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, **_: Any) -> Any:
            ended = {"InstanceId": "i-1", "State": {"Name": "terminated"}, "StateReason": {"Code": code}}
            return [{"Reservations": [{"Instances": [ended]}]}]

    fate = instance_fate(Ec2(), "dev", RUN, "i-1")  # type: ignore[arg-type]
    assert (fate.state, fate.taken_back) == ("gone", taken)


def test_a_machine_that_was_taken_before_it_could_say_so_is_interrupted_with_the_way_on(world: Any) -> None:
    save(world, 90)
    save(world, 100)
    world.put(f"dev/{RUN}/checkpoints/checkpoint-110/state.npz", "half")
    record = finish(world, TAKEN)
    assert (record["outcome"], record["failed_step"]) == ("interrupted", "training")
    assert (record["interrupted_at_step"], record["checkpoint_step"]) == (120, 100)
    assert record["error"].startswith("interrupted: i-1 is terminated: AWS took the spot machine back; ")
    assert record["error"].endswith(f"go on from it: invoke launch --env dev --resume {RUN}")


def test_the_mark_in_the_state_is_enough_when_ec2_has_forgotten_the_machine(world: Any) -> None:
    gone = Fate("gone", "EC2 does not know instance i-1")
    record = finish(world, gone, control={"interruption": {"time": "x"}}, current_step="data_sync")
    assert (record["outcome"], record["failed_step"]) == ("interrupted", "data_sync")
    assert (record["interrupted_at_step"], record["checkpoint_step"]) == (None, None)
    assert "no checkpoint was saved: invoke launch --env dev starts over" in record["error"]


def test_what_the_machine_could_still_say_in_its_state_stands(world: Any) -> None:
    save(world, 39)
    said = "interrupted: EC2 takes it, in phase training at step 39; the checkpoint of step 39 is in S3"
    record = finish(world, TAKEN, status="cleanup", current_step="cleanup", error_message=said)
    assert record["error"] == f"{said}; {TAKEN.words}"
    assert (record["interrupted_at_step"], record["checkpoint_step"]) == (39, 39)


def test_an_operators_kill_and_a_loss_stay_what_they_are(world: Any) -> None:
    assert finish(world, TAKEN, error_message="killed by operator")["outcome"] == "killed"
    assert finish(world, Fate("gone", "gone"), control={"revision": 1})["outcome"] == "lost"


def test_checkpoints_that_cannot_be_listed_keep_no_record_from_its_end(world: Any) -> None:
    save(world, 100)
    world.s3.fail("get_paginator", "AccessDenied")
    record = finish(world, TAKEN)
    assert (record["outcome"], record["checkpoint_step"]) == ("interrupted", None)


def test_watch_says_interrupted_with_a_code_and_a_command_of_its_own(world: Any) -> None:
    world.end_run("interrupted", error="interrupted: EC2 takes it", checkpoint_step=100, resume_from="R0")
    out = io.StringIO()
    code = watch(world.s3, world.ec2, world.bucket, "dev", out=out, run_id=RUN, now=world.clock.now)
    assert code == ExitCode.RUN_INTERRUPTED
    assert f"run {RUN} interrupted" in out.getvalue()
    assert "went on from: run R0\n" in out.getvalue()
    assert f"next: invoke launch --env dev --resume {RUN}\n" in out.getvalue()


def test_a_machine_that_went_off_at_its_deadline_keeps_its_own_reason_and_the_way_on(world: Any) -> None:
    save(world, 90)
    record = finish(world, Fate("gone", "i-1 is terminated"), error_message="deadline reached: off at …")
    assert (record["outcome"], record["checkpoint_step"]) == ("lost", 90)
    (listed,) = list_runs(world.s3, world.bucket, "dev", now=world.clock.now)
    assert next_command(listed) == f"invoke launch --env dev --resume {RUN}"


def test_runs_name_the_way_on_of_those_that_nobody_has_taken_up(world: Any) -> None:
    world.end_run("interrupted", interrupted_at_step=123, checkpoint_step=120)
    listed = list_runs(world.s3, world.bucket, "dev", now=world.clock.now)
    out = io.StringIO()
    print_runs(listed, out)
    wanted = (
        f"{RUN}: interrupted at step 123, saved up to step 120; go on: invoke launch --env dev --resume {RUN}"
    )
    assert wanted in out.getvalue().splitlines()
    world.end_run("succeeded", LATER, resume_from=RUN, resumed_from_step=120)
    later, earlier = listed = list_runs(world.s3, world.bucket, "dev", now=world.clock.now)
    assert (later.resume_from, later.resumed_from_step) == (RUN, 120)
    assert (earlier.interrupted_at_step, unfinished(listed)) == (123, [])


def test_a_filter_does_not_hide_who_went_on(world: Any) -> None:
    world.end_run("interrupted", checkpoint_step=120)
    world.end_run("succeeded", LATER, resume_from=RUN)
    (listed,) = list_runs(world.s3, world.bucket, "dev", outcomes=["interrupted"], now=world.clock.now)
    assert (listed.continued_by, unfinished([listed])) == (LATER, [])


def test_a_run_that_saved_nothing_is_not_gone_on_from_where_another_has(world: Any) -> None:
    latest = "2025-01-16-143022"
    world.end_run("interrupted", checkpoint_step=120)
    world.end_run("interrupted", LATER, resume_from=RUN)
    listed = list_runs(world.s3, world.bucket, "dev", now=world.clock.now)
    (line,) = unfinished(listed)
    assert line.startswith(LATER) and line.endswith(f"--resume {RUN}")
    world.end_run("succeeded", latest, resume_from=RUN)
    assert unfinished(list_runs(world.s3, world.bucket, "dev", now=world.clock.now)) == []


@pytest.mark.parametrize("outcome", ["failed", "lost"])
def test_runs_name_the_way_on_of_one_that_its_deadline_has_ended(world: Any, outcome: str) -> None:
    world.end_run(outcome, error="deadline reached: the machine goes off at …", checkpoint_step=120)
    (listed,) = list_runs(world.s3, world.bucket, "dev", now=world.clock.now)
    assert unfinished([listed]) == [
        f"{RUN}: ended by its deadline, saved up to step 120; go on: invoke launch --env dev --resume {RUN}"
    ]


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (
            ended("succeeded"),
            f"invoke fetch --env dev --run {RUN}",
        ),
        (ended("failed"), f"invoke logs --env dev --run {RUN}"),
        (ended("launch_failed"), "invoke doctor --env dev"),
        (ended("interrupted"), "invoke launch --env dev"),
        (
            ended("failed", error="deadline reached: …", checkpoint_step=7),
            f"invoke launch --env dev --resume {RUN}",
        ),
        (
            ended("interrupted", resume_from=LATER),
            f"invoke launch --env dev --resume {LATER}",
        ),
    ],
)
def test_the_next_command_fits_the_end(record: RunRecord, command: str) -> None:
    assert next_command(record) == command


def test_what_ec2_has_announced_is_shown_while_the_machine_saves(world: Any) -> None:
    control = {"revision": 1, "writer": "w", "deadline": "2025-01-15T20:30:22Z", "attempt": 1}
    world.put_state("training", "step_7", control={**control, "interruption": {"time": "SOON"}})
    out = io.StringIO()
    watch(world.s3, world.ec2, world.bucket, "dev", out=out, follow=False, now=world.clock.now)
    assert "EC2 takes the spot machine back at SOON; it is saving" in out.getvalue()
    assert "may take" in str(ec2_warning({"control": {"rebalance_recommended_at": "2025-01-15T15:00:00Z"}}))
    assert ec2_warning({"control": control}) is None
