"""Watching a run: the end is never missed, and what cannot be known is said."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, FlexibleChecksumError, IncompleteReadError

from chronos_ec2.errors import ChronosError, NoSuchRun, SettingsError, StorageDenied, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.s3 import StorageUnreachable
from chronos_ec2.workstation.watch import watch

RUN = "2025-01-15-143022"
OTHER = "2025-01-15-160000"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Watched:
    """One call of `watch` and what it printed."""

    def __init__(self, world: Any, out: io.StringIO | None = None, **more: Any) -> None:
        self.out = out or io.StringIO()
        self.code: ExitCode | None = None
        self.error: Exception | None = None
        options = {"now": world.clock.now, "sleep": world.clock.sleep, "out": self.out, **more}
        try:
            self.code = watch(world.s3, world.ec2, world.bucket, "dev", **options)
        except ChronosError as error:
            self.error = error

    @property
    def text(self) -> str:
        return self.out.getvalue()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def end(world: Any, outcome: str, **changes: Any) -> None:
    world.end_run(outcome, **changes)
    world.drop_state()


# What cannot be read


def test_a_corrupt_state_file_is_shown_with_the_way_out(world: Any) -> None:
    world.put("dev/system-state.json", b'{"run_id": "2025')
    seen = Watched(world)
    assert seen.code == ExitCode.STATE_UNREADABLE
    assert "not JSON" in seen.text
    assert '{"run_id": "2025' in seen.text
    assert "invoke kill --env dev" in seen.text


def test_a_corrupt_state_file_is_one_json_object_too(world: Any) -> None:
    world.put("dev/system-state.json", b"\x1b[2J\x00")
    seen = Watched(world, follow=False, as_json=True)
    assert seen.code == ExitCode.STATE_UNREADABLE
    (found,) = seen.json
    assert (found["word"], found["run_id"]) == ("corrupt", None)


def test_a_state_file_that_becomes_corrupt_ends_the_watch(world: Any) -> None:
    world.put_state("training", "step_1")
    world.clock.during(2, lambda: world.put("dev/system-state.json", b"{}"))
    seen = Watched(world)
    assert seen.code == ExitCode.STATE_UNREADABLE
    assert "run_id is missing" in seen.text


def test_a_refused_read_ends_the_watch(world: Any) -> None:
    world.put_state("training", "step_1")
    world.clock.during(2, lambda: world.s3.fail("get_object", "AccessDenied"))
    assert isinstance(Watched(world).error, StorageDenied)


def test_an_unreachable_aws_at_the_first_look_is_an_error(world: Any) -> None:
    world.s3.fail("get_object", EndpointConnectionError(endpoint_url="https://s3"), times=100)
    assert isinstance(Watched(world).error, StorageUnreachable)


@pytest.mark.parametrize(("run_id", "kind"), [("../x", UsageProblem), ("2020-01-01-000000", NoSuchRun)])
def test_a_run_that_is_not_there_is_named(world: Any, run_id: str, kind: type[ChronosError]) -> None:
    world.end_run("succeeded")
    seen = Watched(world, run_id=run_id)
    assert isinstance(seen.error, kind)
    if kind is NoSuchRun:
        assert RUN in str(seen.error)


def test_an_environment_that_is_no_name_is_refused_before_any_call(world: Any) -> None:
    with pytest.raises(SettingsError):
        watch(world.s3, world.ec2, world.bucket, "x;rm -rf ~", out=io.StringIO())
    assert world.s3.calls == []


# Outages


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (EndpointConnectionError(endpoint_url="https://s3"), "does not answer"),
        (FlexibleChecksumError(error_msg="Expected checksum a, not b"), "did not arrive whole"),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), "did not arrive whole"),
    ],
    ids=["no answer", "damaged", "broken off"],
)
def test_an_outage_is_told_once_and_sat_out(world: Any, broken: Exception, words: str) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    world.clock.during(2, lambda: world.s3.fail("get_object", broken, times=18))
    world.clock.during(40, lambda: end(world, "succeeded"))
    seen = Watched(world)
    assert seen.code == ExitCode.OK
    assert seen.text.count(words) == 1
    assert seen.text.count("answers again after") == 1


def test_an_outage_without_an_end_is_an_error(world: Any) -> None:
    world.put_state("training", "step_1")
    broken = EndpointConnectionError(endpoint_url="https://s3")
    world.clock.during(1, lambda: world.s3.fail("get_object", broken, times=100_000))
    seen = Watched(world, poll_seconds=30)
    assert isinstance(seen.error, StorageUnreachable)


# Ends


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("succeeded", ExitCode.OK),
        ("failed", ExitCode.RUN_FAILED),
        ("killed", ExitCode.RUN_KILLED),
        ("lost", ExitCode.RUN_LOST),
        ("launch_failed", ExitCode.LAUNCH_REFUSED),
        ("something else", ExitCode.FAILED),
    ],
)
def test_the_runs_outcome_is_the_exit_code(world: Any, outcome: str, code: ExitCode) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    world.clock.during(3, lambda: end(world, outcome))
    seen = Watched(world)
    assert seen.code == code
    assert f"run {RUN} {outcome}" in seen.text


def test_a_run_that_ended_before_the_watch_gives_its_own_code(world: Any) -> None:
    world.end_run("failed", failed_step="gpu_preflight", error="no driver")
    world.put_state("training", "step_1", OTHER)
    seen = Watched(world, run_id=RUN)
    assert seen.code == ExitCode.RUN_FAILED
    assert "gpu_preflight" in seen.text and "no driver" in seen.text
    assert f"invoke logs --env dev --run {RUN}" in seen.text


def test_the_end_is_seen_when_another_run_has_taken_the_environment(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")

    def next_run() -> None:
        world.end_run("failed")
        world.put_state("initialization", "launch", OTHER)

    world.clock.during(2, next_run)
    seen = Watched(world)
    assert seen.code == ExitCode.RUN_FAILED
    assert OTHER not in seen.text
    assert world.clock.sleeps == 2


def test_a_record_that_comes_a_moment_after_the_state_is_gone_is_waited_for(world: Any) -> None:
    world.put_run()
    world.put_state("killed", "training")
    world.clock.during(2, world.drop_state)
    world.clock.during(5, lambda: world.end_run("killed"))
    seen = Watched(world)
    assert seen.code == ExitCode.RUN_KILLED
    assert world.ec2.calls == []


def test_a_vanished_state_without_an_end_is_lost_when_the_machine_is_gone(world: Any) -> None:
    instance = world.start_instance()
    world.put_run()
    world.put_state("training", "step_8", instance_id=instance)

    def catastrophe() -> None:
        world.terminate(instance)
        world.drop_state()

    world.clock.during(2, catastrophe)
    seen = Watched(world)
    assert seen.code == ExitCode.RUN_LOST
    record = world.run_document()
    assert (record["outcome"], record["failed_step"]) == ("lost", "training")
    assert instance in record["error"]


def test_a_machine_that_died_without_a_word_is_lost_though_the_state_is_still_there(world: Any) -> None:
    instance = world.start_instance()
    world.put_run()
    world.put_state("training", "step_8", instance_id=instance)
    world.clock.during(3, lambda: world.terminate(instance))
    seen = Watched(world)
    assert seen.code == ExitCode.RUN_LOST
    assert world.run_document()["outcome"] == "lost"
    assert (world.clock.now() - _start(world)).total_seconds() < 90


def _start(world: Any) -> Any:
    return type(world.clock)().now()


def test_a_dead_machine_that_had_recorded_its_end_is_not_lost(world: Any) -> None:
    world.put_run()
    world.put_state("cleanup", "cleanup")
    world.clock.during(2, lambda: world.end_run("succeeded"))
    seen = Watched(world)  # the state stays, EC2 does not know the instance
    assert seen.code == ExitCode.OK


def test_a_dead_machine_that_was_being_killed_is_killed(world: Any) -> None:
    world.put_run()
    world.put_state("killed", "training")
    assert Watched(world).code == ExitCode.RUN_KILLED


def test_a_lost_run_whose_record_may_not_be_written_is_still_told(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_8")
    world.s3.fail("put_object", "AccessDenied")
    seen = Watched(world)
    assert seen.code == ExitCode.RUN_LOST
    assert "could not be completed" in seen.text


def test_a_record_that_cannot_be_completed_just_now_is_completed_later(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_8")
    world.s3.fail("put_object", EndpointConnectionError(endpoint_url="https://s3"))
    assert Watched(world).code == ExitCode.RUN_LOST
    assert world.run_document()["outcome"] == "lost"


def test_a_broken_record_does_not_hide_that_the_machine_is_gone(world: Any) -> None:
    world.put(f"dev/{RUN}/run.json", b"{half")
    assert Watched(world, run_id=RUN).code == ExitCode.RUN_LOST


def test_an_ec2_that_cannot_be_asked_is_no_proof_of_an_end(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_8")
    world.ec2.fail("get_paginator", "UnauthorizedOperation", times=10_000)
    world.clock.during(10, lambda: end(world, "succeeded"))
    seen = Watched(world, poll_seconds=20)
    assert seen.code == ExitCode.OK
    assert "stalled" in seen.text and "could not be asked" in seen.text


def test_a_run_of_which_nothing_can_be_learned_ends_in_an_error(world: Any) -> None:
    world.put_run()
    world.ec2.fail("get_paginator", "UnauthorizedOperation", times=10_000)
    seen = Watched(world, run_id=RUN, poll_seconds=20)
    assert seen.code is None
    assert f"RunId={RUN}" in str(seen.error)
    assert world.run_document()["outcome"] is None


def test_a_machine_without_a_state_file_is_followed_and_named(world: Any) -> None:
    instance = world.start_instance()
    world.put_run(instance={"id": instance, "type": "t3.medium"})
    world.clock.during(40, lambda: world.terminate(instance))
    seen = Watched(world)
    assert seen.code == ExitCode.RUN_LOST
    assert "orphaned" in seen.text and f"{instance} is running" in seen.text


def test_a_launch_that_waits_for_capacity_is_not_lost_while_it_renews_its_claim(world: Any) -> None:
    world.put_run()
    world.clock.pass_time(7200)
    world.put_state("initialization", "waiting_capacity", instance_id=None)
    world.clock.pass_time(100)
    (seen,) = Watched(world, follow=False, as_json=True).json
    assert (seen["word"], seen["current_step"], seen["outcome"]) == ("launching", "waiting_capacity", None)
    (listed,) = list_runs(world.s3, world.bucket, "dev", ec2=world.ec2, now=world.clock.now)
    assert listed.outcome == "running"
    world.clock.pass_time(100)  # and when nobody renews it any more, it is
    (seen,) = Watched(world, follow=False, as_json=True).json
    assert seen["outcome"] == "lost"


def test_a_launch_whose_first_instance_came_to_nothing_is_not_lost(world: Any) -> None:
    """EC2 has ended what the first pool gave; the launch asks the next, under the claim that it renews."""
    world.terminate(world.start_instance())
    world.put_run()
    world.clock.pass_time(300)
    world.put_state("initialization", "launch", instance_id=None)
    world.clock.pass_time(70)  # past the age at which EC2 is asked
    (seen,) = Watched(world, follow=False, as_json=True).json
    assert (seen["word"], seen["outcome"]) == ("launching", None)
    (listed,) = list_runs(world.s3, world.bucket, "dev", ec2=world.ec2, now=world.clock.now)
    assert (listed.outcome, world.run_document()["outcome"]) == ("running", None)
    world.clock.pass_time(60)  # nobody renews it any more
    (seen,) = Watched(world, follow=False, as_json=True).json
    assert seen["outcome"] == "lost"
    # Its laptop may only have slept. Who takes the claim away may write the end; nobody has.
    list_runs(world.s3, world.bucket, "dev", ec2=world.ec2, now=world.clock.now)
    assert world.run_document()["outcome"] is None
    world.s3.delete_object(Bucket=world.bucket, Key="dev/system-state.json")
    list_runs(world.s3, world.bucket, "dev", ec2=world.ec2, now=world.clock.now)
    assert world.run_document()["outcome"] == "lost"


# Words


@pytest.mark.parametrize(
    ("status", "instance_id", "word"),
    [
        ("initialization", None, "launching"),
        ("initialization", "i-1", "booting"),
        ("data_sync", "i-1", "syncing"),
        ("training", "i-1", "training"),
        ("results_sync", "i-1", "saving"),
        ("cleanup", "i-1", "cleaning up"),
        ("failed", "i-1", "failing"),
        ("killed", "i-1", "stopping"),
    ],
)
def test_a_living_run_is_one_json_object_with_a_word(
    world: Any, status: str, instance_id: str | None, word: str
) -> None:
    world.put_state(status, "some_step", instance_id=instance_id)
    world.clock.pass_time(7)
    seen = Watched(world, follow=False, as_json=True)
    assert seen.code == ExitCode.OK
    (found,) = seen.json
    assert found["word"] == word
    assert found["environment"] == "dev"
    assert found["run_id"] == RUN
    assert (found["status"], found["current_step"]) == (status, "some_step")
    assert (found["heartbeat_age_seconds"], found["instance_id"]) == (7, instance_id)
    assert found["outcome"] is None
    assert world.ec2.calls == []


def test_a_silent_training_is_stalled_when_its_machine_still_runs(world: Any) -> None:
    instance = world.start_instance()
    world.put_state("training", "step_8", instance_id=instance)
    world.clock.pass_time(130)
    (found,) = Watched(world, follow=False, as_json=True).json
    assert (found["word"], found["detail"]) == ("stalled", f"{instance} is running")


@pytest.mark.parametrize(("seconds", "word"), [(300, "syncing"), (700, "stalled")])
def test_a_phase_that_writes_no_heartbeat_has_more_patience(world: Any, seconds: int, word: str) -> None:
    instance = world.start_instance()
    world.put_state("data_sync", "data_sync", instance_id=instance)
    world.clock.pass_time(seconds)
    (found,) = Watched(world, follow=False, as_json=True).json
    assert found["word"] == word


def test_a_heartbeat_from_the_future_is_fresh(world: Any) -> None:
    world.put_state("training", "step_8")
    world.clock.pass_time(-50)
    (found,) = Watched(world, follow=False, as_json=True).json
    assert found["heartbeat_age_seconds"] == 0


def test_ec2_is_asked_only_now_and_then(world: Any) -> None:
    instance = world.start_instance()
    world.put_run()
    world.put_state("training", "step_8", instance_id=instance)
    world.clock.during(70, lambda: end(world, "succeeded"))
    assert Watched(world).code == ExitCode.OK
    assert 4 <= len(world.ec2.calls) <= 8  # 95 s of silence, asked every 15 s


# No active run


def test_no_run_at_all_is_said(world: Any) -> None:
    seen = Watched(world)
    assert seen.code == ExitCode.OK
    assert "no run is active in dev" in seen.text
    assert "invoke launch --env dev" in seen.text


def test_without_an_active_run_the_last_one_is_shown(world: Any) -> None:
    metrics = {"WQL": 0.12, "baselines": {"seasonal_naive": {"WQL": 0.3}}}
    world.end_run("succeeded", metrics=metrics)
    world.end_run("failed", "2025-01-14-080000")
    seen = Watched(world)
    assert seen.code == ExitCode.OK
    assert "no run is active in dev" in seen.text
    assert f"last run {RUN} succeeded" in seen.text
    assert "WQL: 0.1200 (seasonal naive 0.3000)" in seen.text
    assert f"s3://chronos-test/dev/{RUN}/" in seen.text


def test_without_an_active_run_json_says_idle(world: Any) -> None:
    world.end_run("failed")
    seen = Watched(world, follow=False, as_json=True)
    assert seen.code == ExitCode.OK
    (found,) = seen.json
    assert (found["word"], found["run_id"], found["outcome"]) == ("idle", RUN, "failed")
    assert found["status"] is None


def test_a_last_run_without_an_end_is_completed(world: Any) -> None:
    world.put_run(instance={"id": "i-1", "type": "g4dn.2xlarge"})
    world.clock.pass_time(300)
    seen = Watched(world)
    assert f"last run {RUN} lost" in seen.text
    assert world.run_document()["outcome"] == "lost"


def test_a_corrupt_or_missing_last_record_is_no_crash(world: Any) -> None:
    world.put(f"dev/{RUN}/run.json", b"[]")
    world.clock.pass_time(300)
    assert "no run is active" in Watched(world).text


# Views


def test_lines_are_printed_when_something_changes_and_only_then(world: Any) -> None:
    world.put_run()
    world.put_state("initialization", "venv_download")
    world.clock.during(5, lambda: world.put_state("data_sync", "data_sync"))
    world.clock.during(9, lambda: world.put_state("training", "step_20"))
    world.clock.during(12, lambda: end(world, "succeeded"))
    seen = Watched(world)
    changes = [line for line in seen.text.splitlines() if re.match(r"\d\d:\d\d:\d\dZ", line)]
    assert [line.split()[2:4] for line in changes] == [
        ["initialization", "venv_download"],
        ["data_sync", "data_sync"],
        ["training", "step_20"],
    ]
    assert changes[0].startswith("14:30:22Z")
    assert "\x1b" not in seen.text


def test_json_of_a_whole_run_is_an_object_a_change(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_20")
    world.clock.during(4, lambda: end(world, "failed", failed_step="training", error="exit 3"))
    first, last = Watched(world, as_json=True).json
    assert first.keys() == last.keys()
    assert (last["outcome"], last["failed_step"], last["error"]) == ("failed", "training", "exit 3")


def test_a_failed_run_shows_its_last_log_lines_without_control_characters(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_20")
    world.put(
        f"dev/{RUN}/logs/bootstrap.log",
        "".join(f"line {n}\n" for n in range(50)) + "\x1b[31mboom\x1b[0m\x07\n",
    )
    world.clock.during(2, lambda: end(world, "failed"))
    text = Watched(world).text
    assert "line 49\nboom\n" in text
    assert "line 20\n" not in text
    assert "\x1b" not in text and "\x07" not in text


def test_the_live_panel_shows_phases_step_heartbeat_and_log(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    world.put_run()
    phases = [{"name": "initialization", "seconds": 12.5, "outcome": "ok"}, {"name": 3}, "junk"]
    control = {"revision": 1, "writer": "w", "deadline": to_text(world.clock.now()), "attempt": 1}
    world.put(f"dev/{RUN}/logs/bootstrap.log", "epoch [bold]1[/nope]\n")
    world.put_state("data_sync", "data_sync", control={**control, "phases": phases})
    world.clock.during(3, lambda: world.put_state("training", "step_20"))
    world.clock.during(6, lambda: end(world, "succeeded"))
    seen = Watched(world, Terminal())
    assert seen.code == ExitCode.OK
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.text)
    for words in ("initialization", "12 s", "data_sync", "step 20", "heartbeat", "epoch [bold]1[/nope]"):
        assert words in text
    assert re.search(r"✔ data_sync +6 s", text)
    assert f"run {RUN} succeeded" in text
    assert "\x1b[?25h" in seen.text  # the cursor is shown again


def test_once_on_a_terminal_is_the_screen_that_stays(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    world.put_state("training", "step_20")
    seen = Watched(world, Terminal(), follow=False)
    assert "step 20" in seen.text and "heartbeat 0 s ago" in seen.text
    assert "\x1b[?1049h" not in seen.text and "\x1b[3" not in seen.text


def test_a_terminal_that_can_do_nothing_gets_lines(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    world.put_state("training", "step_20")
    world.clock.during(2, lambda: end(world, "succeeded"))
    seen = Watched(world, Terminal())
    assert "step_20" in seen.text and "\x1b" not in seen.text


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_says_that_the_run_goes_on(
    world: Any, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")

    def interrupt() -> None:
        raise KeyboardInterrupt

    world.put_state("training", "step_20")
    world.clock.during(2, interrupt)
    seen = Watched(world, Terminal() if terminal else io.StringIO())
    assert seen.code == ExitCode.INTERRUPTED
    assert "the run goes on" in seen.text
    assert world.keys("dev/system-state.json") == ["dev/system-state.json"]


def test_every_look_is_handed_on(world: Any) -> None:
    world.put_state("training", "step_1")
    world.clock.during(2, lambda: end(world, "succeeded"))
    words: list[str] = []
    assert Watched(world, saw=lambda sight: words.append(sight.word)).code == ExitCode.OK
    assert words == ["training", "training", "succeeded"]


def test_a_watch_changes_nothing_while_a_run_lives(world: Any) -> None:
    world.put_run(started_at=to_text(world.clock.now()))
    world.put_state("training", "step_20")
    world.clock.during(5, lambda: end(world, "succeeded"))
    Watched(world)
    assert not {"put_object", "copy_object", "delete_object"} & set(world.s3.calls)
