"""The run history: every run is listed, whatever state its record is in."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import pytest

from chronos_ec2.errors import NoSuchRun, SettingsError, StorageDenied, UsageProblem
from chronos_ec2.workstation.run_ids import check_run_id, latest_run_id, list_run_ids, run_prefix
from chronos_ec2.workstation.run_record import RunRecord
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.runs_table import print_runs

RUN = "2025-01-15-143022"
OLDER = "2025-01-14-080000"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def runs(world: Any, **more: Any) -> list[RunRecord]:
    return list_runs(world.s3, world.bucket, "dev", now=world.clock.now, **more)


def test_a_refused_record_is_an_error_and_not_a_missing_run(world: Any) -> None:
    world.end_run("succeeded")
    world.s3.fail("get_object", "NoSuchKey")  # the state file
    world.s3.fail("get_object", "AccessDenied")
    with pytest.raises(StorageDenied):
        runs(world)


@pytest.mark.parametrize("body", [b"{half", b"[]", b"\xff"])
def test_a_broken_record_is_listed_and_named(world: Any, body: bytes) -> None:
    world.end_run("succeeded", OLDER)
    world.put(f"dev/{RUN}/run.json", body)
    broken, whole = runs(world)
    assert (broken.run_id, broken.outcome) == (RUN, "unknown")
    assert broken.problem is not None and f"dev/{RUN}/run.json" in broken.problem
    assert (whole.outcome, whole.problem) == ("succeeded", None)


def test_a_run_without_a_record_is_listed_and_named(world: Any) -> None:
    world.put(f"dev/{RUN}/config.yaml", b"x")
    (found,) = runs(world)
    assert (found.outcome, found.problem) == ("unknown", "run.json is missing")
    assert found.started_at is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"started_at": 7, "ended_at": "yesterday"},
        {"instance": None, "metrics": "none"},
        {"metrics": {"WQL": "bad", "baselines": []}},
        {"metrics": {"WQL": float("nan"), "baselines": {"seasonal_naive": None}}},
    ],
)
def test_fields_of_a_wrong_type_are_left_out(world: Any, changes: dict[str, Any]) -> None:
    world.put_run(**{"outcome": "failed", "failed_step": "training", **changes})
    (found,) = runs(world)
    assert (found.outcome, found.failed_step, found.wql) == ("failed", "training", None)
    print_runs([found], io.StringIO())


def test_runs_come_newest_first_and_other_prefixes_are_no_runs(world: Any) -> None:
    for run_id in (OLDER, RUN, "2025-01-15-143023"):
        world.end_run("succeeded", run_id)
    world.put("dev/notes/readme", b"")
    world.put("dev/2025-01-15-14302x/run.json", b"{}")
    world.put("prod/2026-01-01-000000/run.json", b"{}")
    assert [run.run_id for run in runs(world)] == ["2025-01-15-143023", RUN, OLDER]


def test_a_finished_run_shows_its_duration_and_both_losses(world: Any) -> None:
    world.clock.pass_time(125)
    metrics = {"WQL": 0.1234, "MASE": 1.0, "baselines": {"seasonal_naive": {"WQL": 0.2}}}
    world.end_run("succeeded", metrics=metrics, instance={"id": "i-1", "type": "g4dn.xlarge"})
    (found,) = runs(world)
    assert found.duration_seconds == 125
    assert (found.wql, found.baseline_wql) == (0.1234, 0.2)
    assert (found.instance_id, found.instance_type) == ("i-1", "g4dn.xlarge")


def test_the_live_run_shows_its_step_and_its_time_so_far(world: Any) -> None:
    world.put_run()
    world.clock.pass_time(60)
    world.put_state("training", "step_40")
    (found,) = runs(world)
    assert (found.outcome, found.current_step, found.duration_seconds) == ("running", "step_40", 60)
    assert found.instance_id == "i-0123456789abcdef0"


def test_a_run_that_ended_is_ended_even_while_its_state_file_is_still_there(world: Any) -> None:
    world.end_run("failed", failed_step="data_sync")
    world.put_state("cleanup", "cleanup")
    (found,) = runs(world)
    assert (found.outcome, found.current_step) == ("failed", None)


def test_a_run_without_end_and_state_is_unknown_when_ec2_is_not_asked(world: Any) -> None:
    world.put_run()
    (found,) = runs(world)
    assert found.outcome == "unknown"
    assert found.problem is not None and "no end" in found.problem


def test_a_lost_run_is_completed_from_what_ec2_says(world: Any) -> None:
    instance = world.start_instance()
    world.terminate(instance)
    world.put_run(instance={"id": instance, "type": "t3.medium"})
    (found,) = runs(world, ec2=world.ec2)
    assert (found.outcome, found.problem) == ("lost", None)
    assert world.run_document()["outcome"] == "lost"


def test_a_run_whose_machine_still_runs_is_not_completed(world: Any) -> None:
    instance = world.start_instance()
    world.put_run()
    (found,) = runs(world, ec2=world.ec2)
    assert found.outcome == "unknown"
    assert found.problem is not None and instance in found.problem
    assert world.run_document()["outcome"] is None


def test_ec2_is_not_asked_about_a_run_with_a_fresh_heartbeat(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    (found,) = runs(world, ec2=world.ec2)
    assert (found.outcome, world.ec2.calls) == ("running", [])


def test_a_holder_with_an_old_heartbeat_and_no_machine_is_lost(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    world.clock.pass_time(600)
    (found,) = runs(world, ec2=world.ec2)
    assert (found.outcome, found.failed_step) == ("lost", "training")


def test_a_record_that_may_not_be_completed_is_still_listed(world: Any) -> None:
    world.put_run()
    world.clock.pass_time(600)
    world.s3.fail("put_object", "AccessDenied")
    (found,) = runs(world, ec2=world.ec2)
    assert found.outcome == "unknown"
    assert found.problem is not None and "could not be recorded" in found.problem


def test_a_corrupt_state_file_does_not_hide_the_runs(world: Any) -> None:
    world.end_run("succeeded", OLDER)
    world.put_run()
    world.put("dev/system-state.json", b"{half")
    newest, older = runs(world)
    assert newest.outcome == "unknown"
    assert older.outcome == "succeeded"
    assert latest_run_id(world.s3, world.bucket, "dev") == RUN


def test_the_latest_run_is_the_one_that_holds_the_environment(world: Any) -> None:
    with pytest.raises(NoSuchRun, match="invoke launch --env dev"):
        latest_run_id(world.s3, world.bucket, "dev")
    world.end_run("succeeded", RUN)
    world.end_run("succeeded", OLDER)
    assert latest_run_id(world.s3, world.bucket, "dev") == RUN
    world.put_state("training", "step_1", OLDER)
    assert latest_run_id(world.s3, world.bucket, "dev") == OLDER


@pytest.mark.parametrize(
    "text", ["", "latest", "2025-01-15-14302", f"../{RUN}", f"{RUN}\n", f"{RUN}/x", "٢٠٢٥-01-15-143022"]
)
def test_what_is_no_run_id_never_gets_into_a_key(text: str) -> None:
    with pytest.raises(UsageProblem, match="YYYY-MM-DD-HHMMSS"):
        check_run_id(text)


@pytest.mark.parametrize("text", ["x;rm -rf ~", "../prod", "", "logs", "dev/"])
def test_what_is_no_environment_never_gets_into_a_key(world: Any, text: str) -> None:
    with pytest.raises(SettingsError):
        run_prefix(text, RUN)
    with pytest.raises(SettingsError):
        list_run_ids(world.s3, world.bucket, text)
    assert world.s3.calls == []


def test_plain_columns_line_up_and_name_problems(world: Any) -> None:
    world.end_run("failed", failed_step="data_sync")
    world.put(f"dev/{OLDER}/config.yaml", b"")
    out = io.StringIO()
    print_runs(runs(world), out)
    heading, first, second, problem = out.getvalue().splitlines()
    assert heading.index("OUTCOME") == first.index("failed") == second.index("unknown")
    assert problem == f"{OLDER}: run.json is missing"
    assert "\x1b" not in out.getvalue()


def test_the_table_on_a_terminal_takes_no_markup_from_records(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    world.end_run("failed", failed_step="[bold]x[/nope]")
    out = Terminal()
    print_runs(runs(world), out)
    assert "[bold]x[/nope]" in out.getvalue()


@pytest.mark.parametrize(("width", "lost"), [(200, 0), (80, 3), (40, 6), (20, 8)])
def test_a_narrow_terminal_loses_columns_and_no_run_id(
    world: Any, monkeypatch: pytest.MonkeyPatch, width: int, lost: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    world.end_run("succeeded", metrics={"WQL": 0.17}, git={"commit": "0123456789abcdef"})
    out = Terminal()
    print_runs(runs(world), out)
    heading, row = out.getvalue().splitlines()[:2]
    named = ("OUTCOME", "FAILED STEP", "STARTED", "DURATION", "COST", "WQL", "BASELINE", "INSTANCE", "COMMIT")
    assert RUN in row and len(row.rstrip()) <= width
    assert len([name for name in named if name not in heading]) >= lost
    assert ("COMMIT" in heading) == (lost == 0)


def test_no_color_is_respected(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    world.end_run("failed")
    coloured, plain = Terminal(), Terminal()
    print_runs(runs(world), coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    print_runs(runs(world), plain)
    assert "\x1b[31m" in coloured.getvalue()
    assert "\x1b[31m" not in plain.getvalue()


def test_json_is_one_list_with_times_as_text(world: Any) -> None:
    world.clock.pass_time(10)
    world.end_run("succeeded")
    out = io.StringIO()
    print_runs(runs(world), out, as_json=True)
    (found,) = json.loads(out.getvalue())
    assert found["run_id"] == RUN
    assert found["started_at"] == "2025-01-15T14:30:22Z"
    assert found["duration_seconds"] == timedelta(seconds=10).total_seconds()


def test_no_runs_is_said_and_is_an_empty_list_in_json() -> None:
    plain, as_json = io.StringIO(), io.StringIO()
    print_runs([], plain)
    print_runs([], as_json, as_json=True)
    assert plain.getvalue() == "no runs yet\n"
    assert json.loads(as_json.getvalue()) == []


def test_a_run_that_ends_while_it_is_listed_is_not_taken_for_lost(world: Any) -> None:
    world.put_run()
    world.put_state("cleanup", "cleanup")

    class EndsAfterTheFirstRead:
        reads = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(world.real_s3, name)

        def get_object(self, **wanted: Any) -> Any:
            self.reads += 1
            answer = world.real_s3.get_object(**wanted)
            if self.reads == 1:
                world.end_run("succeeded")
                world.drop_state()
            return answer

    (found,) = list_runs(EndsAfterTheFirstRead(), world.bucket, "dev", now=world.clock.now)  # type: ignore[arg-type]
    assert found.outcome == "succeeded"


def test_a_run_that_claims_the_environment_while_it_is_listed_is_not_taken_for_lost(world: Any) -> None:
    """Its record is older than its claim; the first instance came to nothing, the launch goes on."""
    world.put_run()
    world.terminate(world.start_instance())

    class ClaimsAfterTheRecord:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.real_s3, name)

        def get_object(self, **wanted: Any) -> Any:
            answer = world.real_s3.get_object(**wanted)
            if wanted["Key"].endswith("run.json"):
                world.put_state("initialization", "launch", instance_id=None)
            return answer

    s3: Any = ClaimsAfterTheRecord()
    list_runs(s3, world.bucket, "dev", ec2=world.ec2, now=world.clock.now)
    assert world.run_document()["outcome"] is None
