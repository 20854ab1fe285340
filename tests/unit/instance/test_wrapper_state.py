"""The wrapper and the state file: heartbeat, steps, and a state that is lost."""

from __future__ import annotations

import json

import pytest

from .conftest import STATE_KEY, Rig, get_state, put_state, wait_for
from .fakes import FakeS3, Fault

STEPS = """
import json, sys, time
for step in range(1, 2000):
    print(json.dumps({"event": "metric", "step": step, "loss": 0.5}), flush=True)
    time.sleep(0.02)
"""


def test_steps_and_pid_move_and_the_status_stays(rig: Rig, s3: FakeS3) -> None:
    put_state(s3)
    process = rig.start(STEPS, s3=s3)
    wait_for(lambda: get_state(s3)["current_step"].startswith("step_"))
    first = get_state(s3)
    wait_for(lambda: get_state(s3)["current_step"] != first["current_step"])
    assert first["status"] == "training" and first["pid"] > 0
    assert first["timestamps"]["last_update"] > first["timestamps"]["start"]
    process.terminate()
    process.communicate(timeout=10)
    last = get_state(s3)
    assert process.returncode == 143
    assert last["pid"] is None and last["status"] == "training"
    assert last["current_step"] == f"step_{rig.metrics[-1]['step']}"
    assert [key for key in s3.objects if ".tmp" in key] == []


def test_it_beats_without_progress_and_epochs_count_without_steps(rig: Rig, s3: FakeS3) -> None:
    put_state(s3)
    line = "{'loss': 1.5, 'grad_norm': 0.5, 'learning_rate': 0.001, 'epoch': 5.25}"
    process = rig.start(f'import time; time.sleep(0.5); print("{line}", flush=True); time.sleep(60)', s3=s3)
    wait_for(lambda: get_state(s3)["control"]["revision"] >= 7)
    wait_for(lambda: get_state(s3)["current_step"] == "epoch_5")
    process.terminate()
    process.communicate(timeout=10)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda s3: s3.objects.pop(STATE_KEY), "is gone"),
        (lambda s3: put_state(s3, run_id="2030-01-01-000000"), "belongs to run 2030-01-01-000000"),
        (lambda s3: put_state(s3, status="killed", error_message="killed by operator"), "killed by operator"),
        (lambda s3: put_state(s3, status="failed"), "says failed"),
    ],
    ids=["deleted", "taken", "killed", "failed"],
)
def test_a_lost_state_stops_the_training(rig: Rig, s3: FakeS3, loss, words: str) -> None:
    put_state(s3)
    process = rig.start("import time; print('ready', flush=True); time.sleep(60)", s3=s3)
    wait_for(lambda: get_state(s3)["pid"])
    with s3.lock:
        loss(s3)
        left = s3.objects.get(STATE_KEY)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143
    assert words in err and words in rig.record["error"]
    assert rig.record["status"] == "interrupted"
    assert s3.objects.get(STATE_KEY) == left, "a late heartbeat wrote over what somebody else decided"


def test_a_deaf_child_is_killed_when_the_state_is_lost(rig: Rig, s3: FakeS3) -> None:
    put_state(s3, status="killed")
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    process = rig.start(deaf, "--grace-seconds", "0.2", s3=s3)
    process.communicate(timeout=10)
    assert process.returncode == 143


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "system-state", 403, "AccessDenied"),
        Fault("GET", "system-state", 404, "NoSuchBucket"),
        Fault("PUT", "system-state", 400, "ExpiredToken"),
    ],
    ids=lambda fault: fault.code,
)
def test_s3_trouble_never_stops_the_training_and_is_tried_again(rig: Rig, s3: FakeS3, fault: Fault) -> None:
    put_state(s3)
    fault.times = 2
    s3.faults.append(fault)
    process = rig.start(STEPS, s3=s3)
    wait_for(lambda: get_state(s3)["current_step"].startswith("step_"))
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert "heartbeat failed, training goes on" in err and fault.code in err
    assert "written again after 2 failures" in err


def test_an_unreadable_state_file_does_not_stop_the_training(rig: Rig, s3: FakeS3) -> None:
    s3.objects[STATE_KEY] = b"{"
    code, _, err = rig.run("import time; time.sleep(0.4)", s3=s3)
    assert code == 0 and "is not JSON" in err
    assert s3.objects[STATE_KEY] == b"{"


def test_another_writer_keeps_what_it_wrote(rig: Rig, s3: FakeS3) -> None:
    put_state(s3)
    process = rig.start(STEPS, s3=s3)
    wait_for(lambda: get_state(s3)["pid"])
    for attempt in range(20):
        with s3.lock:
            put_state(s3, **{**get_state(s3), "control": {**get_state(s3)["control"], "attempt": attempt}})
    process.terminate()
    process.communicate(timeout=10)
    assert get_state(s3)["control"]["attempt"] == 19


def test_without_a_bucket_s3_is_left_alone(rig: Rig, s3: FakeS3, monkeypatch) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    assert rig.run("pass")[0] == 0
    assert s3.requests == []
    assert json.loads((rig.output / "training.json").read_text())["status"] == "completed"
