"""The record and the verdict, without a process."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.instance.training_record import History, TrainingRecord, plain, write_json_atomically
from chronos_ec2.instance.verdict import Ending, judge

START = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)


def record_of(*events: dict[str, Any]) -> TrainingRecord:
    record = TrainingRecord({"trainer": "test"}, START)
    for event in events:
        record.observe(event)
    return record


def verdict(returncode: int, *events: dict[str, Any], **facts: Any) -> Ending:
    words = {"signum": None, "lost": None, "needs_closing_events": False, "last_words": "", **facts}
    return judge(returncode, record_of(*events), **words)


def test_the_timeline_has_the_first_steps_begin_and_the_last_ones_end() -> None:
    moments = iter(START + timedelta(milliseconds=1500 * n) for n in range(9))
    record = TrainingRecord({"trainer": "test"}, START, now=lambda: next(moments))
    for event in ({"event": "warning"}, {"event": "start"}, {"event": "metric", "step": 10, "loss": 1.0}):
        record.observe(event)
    reached = {"first_step": "2025-01-15T14:30:23.500Z", "last_step": "2025-01-15T14:30:25.000Z"}
    assert record.document("running")["timeline"] == reached
    record.observe({"event": "train_end", "steps": 12})
    record.observe({"event": "checkpoint", "step": 12})  # saved after the end
    reached["last_step"] = "2025-01-15T14:30:26.500Z"
    assert record.document("completed")["timeline"] == reached


def test_a_command_that_announces_nothing_begins_with_its_first_numbers() -> None:
    record = TrainingRecord({"trainer": "command"}, START, now=lambda: START)
    record.observe({"event": "metric", "loss": 1.0, "epoch": 0.1})
    assert record.timeline == dict.fromkeys(("first_step", "last_step"), "2025-01-15T14:30:22.000Z")


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_history_is_thinned_evenly_and_keeps_both_ends(count: int) -> None:
    history = History(limit=8)
    for step in range(count):
        history.add({"step": step})
    steps = [point["step"] for point in history.points()]
    assert len(steps) <= 8 and steps == sorted(set(steps))
    assert steps[:1] == [0][:count] and steps[-1:] == [count - 1][: min(count, 1)]
    gaps = {b - a for a, b in pairwise(steps[:-1])}
    assert len(gaps) <= 1


END = {"event": "train_end", "steps": 9, "interrupted": False}
FINAL = {"event": "final", "metrics": {"WQL": 0.1}}
ZERO = {"event": "metric", "step": 1, "loss": 0}
NAN = {"event": "metric", "step": 4, "loss": math.nan}


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        (verdict(0), "completed", 0),
        (verdict(0, END, FINAL, needs_closing_events=True), "completed", 0),
        (verdict(0, END, needs_closing_events=True), "failed", 1),
        (verdict(0, NAN), "failed", 1),
        (verdict(3, NAN), "failed", 3),
        (verdict(75, NAN), "failed", 1),
        (verdict(143, NAN, signum=15), "failed", 143),
        (verdict(-15, NAN, signum=15), "failed", 143),
        (verdict(0, NAN, signum=15), "failed", 1),
        (verdict(0, NAN, {**END, "interrupted": True}), "failed", 1),
        (verdict(0, NAN, lost="gone"), "interrupted", 143),
        (verdict(75, {"event": "metric", "loss": 1, "grad_norm": math.nan}), "interrupted", 75),
        (verdict(0, {"event": "metric", "loss": None}), "failed", 1),
        (verdict(0, {"event": "metric", "loss": math.inf}), "failed", 1),
        (verdict(0, {"event": "eval", "eval_loss": math.nan}), "failed", 1),
        (verdict(0, {"event": "final", "metrics": {"WQL": None}}), "completed", 0),
        (verdict(0, {"event": "metric", "loss": 1, "grad_norm": math.nan}), "failed", 1),
        (verdict(0, {"event": "metric", "loss": 1, "grad_norm": math.inf}), "completed", 0),
        (verdict(0, ZERO, ZERO), "failed", 1),
        (verdict(0, ZERO, END, FINAL, needs_closing_events=True), "failed", 1),
        (verdict(0, {"event": "metric", "loss": 0.5}, ZERO), "completed", 0),
        (verdict(0, ZERO, {"event": "metric", "loss": 0.5}, ZERO), "completed", 0),
        (verdict(0, {"event": "train_summary", "train_loss": 0.0}), "failed", 1),
        (verdict(0, {"event": "train_summary", "train_loss": None}), "failed", 1),
        (verdict(0, ZERO, {"event": "train_summary", "train_loss": 0.0}), "failed", 1),
        (verdict(0, {"event": "train_summary", "train_loss": 0.5}), "completed", 0),
        (
            verdict(0, {"event": "metric", "loss": 0.5}, {"event": "train_summary", "train_loss": 0}),
            "completed",
            0,
        ),
        (verdict(-9), "failed", 137),
        (verdict(-60), "failed", 188),
        (verdict(75), "interrupted", 75),
        (verdict(0, signum=15), "interrupted", 143),
        (verdict(0, END, signum=15), "completed", 0),
        (verdict(0, {"event": "train_summary"}, signum=15), "completed", 0),
        (verdict(-15, signum=15), "interrupted", 143),
        (verdict(1, signum=2), "interrupted", 1),
        (verdict(0, {**END, "interrupted": True}), "interrupted", 75),
        (verdict(1, {**END, "interrupted": True}, signum=15), "interrupted", 75),
        (verdict(1, END, FINAL, signum=15, needs_closing_events=True), "completed", 0),
        (verdict(-9, END, FINAL, signum=15, needs_closing_events=True), "completed", 0),
        (verdict(1, ZERO, END, FINAL, signum=15, needs_closing_events=True), "failed", 1),
        (verdict(1, END, FINAL, needs_closing_events=True), "failed", 1),
        (verdict(1, END, signum=15, needs_closing_events=True), "interrupted", 1),
        (verdict(1, END, FINAL, signum=15), "interrupted", 1),
        (verdict(0, lost="gone"), "interrupted", 143),
    ],
)
def test_verdicts(ending: Ending, status: str, code: int) -> None:
    assert (ending.status, ending.exit_code) == (status, code)
    assert (ending.error is None) is (status == "completed")


def test_a_run_that_goes_on_and_has_no_step_left_is_no_failure() -> None:
    record = TrainingRecord({"resume_from": "2025-01-14-000000"}, START)
    record.observe({"event": "train_summary", "train_loss": 0.0})
    assert record.broken_numbers() is None


def test_a_loss_of_nan_is_named_whatever_ended_the_training() -> None:
    assert str(verdict(-15, NAN, signum=15).error).endswith("killed by SIGTERM; loss is nan at step_4")
    assert verdict(75, NAN).error == "the training command exited with 75, but loss is nan at step_4"
    assert record_of(NAN).document("failed")["bad_loss"] == "loss is nan at step_4"


def test_a_gradient_that_recovers_is_forgiven() -> None:
    events = [{"event": "metric", "loss": 1.0, "grad_norm": g} for g in (math.nan, math.inf, 0.5)]
    assert verdict(0, *events).status == "completed"


def test_memory_is_named_when_nobody_else_sent_the_kill() -> None:
    assert "memory ran out" in str(verdict(-9, last_words="step 3").error)


@pytest.mark.parametrize(
    ("events", "label"),
    [
        ([], None),
        ([{"event": "metric", "step": 120}], "step_120"),
        ([{"event": "metric", "epoch": 5.9}], "epoch_5"),
        ([{"event": "metric", "step": 7}, {"event": "metric", "epoch": 1}], "step_7"),
        ([{"event": "metric", "step": math.nan, "epoch": 10**400}], None),
        ([{"event": "metric", "step": "7"}, {"event": "metric", "step": True}], None),
    ],
)
def test_the_step_label(events: list[dict[str, Any]], label: str | None) -> None:
    assert record_of(*events).label == label


def test_events_of_any_shape_leave_a_document_that_is_strict_json() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    events = [
        {"event": kind, "metrics": deep, "versions": 3, "step": math.inf, "params": math.nan, "path": deep}
        for kind in ("start", "metric", "eval", "checkpoint", "warning", "train_end", "final", "unknown")
    ]
    text = json.dumps(record_of(*events).document("running"), allow_nan=False)
    assert json.loads(text)["status"] == "running"
    assert plain({"a": math.nan, 3: (math.inf, 1)}) == {"a": None, "3": [None, 1]}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    write_json_atomically(path, {"old": 1})
    with pytest.raises(ValueError):
        write_json_atomically(path, {"new": math.nan})
    assert json.loads(path.read_text()) == {"old": 1}
