"""What `invoke reap` ends, and what it leaves alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.outcome import Fate
from chronos_ec2.workstation.reap_plan import Action, Holding, Machine, Survey, decide

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
RUN, OTHER = "2026-01-15-110000", "2026-01-15-113000"
GONE, RUNNING, UNKNOWN = Fate("gone", "it is gone"), Fate("running", "it runs"), Fate("unknown", "no answer")


def state(*, heard: float = 1, deadline: float = 60, instance: str | None = "i-1") -> dict[str, Any]:
    """A state file's body; minutes since it was heard of, minutes until its deadline."""
    return {
        "run_id": RUN,
        "instance_id": instance,
        "timestamps": {"last_update": to_text(NOW - timedelta(minutes=heard))},
        "control": {"deadline": to_text(NOW + timedelta(minutes=deadline))},
    }


def machine(run_id: str | None = RUN, *, age: float = 30, name: str = "i-1") -> Machine:
    return Machine(name, run_id, NOW - timedelta(minutes=age))


def plan(
    holding: Holding | None, *machines: Machine, staged: list[tuple[str, datetime]] | None = None
) -> list[Action]:
    survey = Survey("dev", NOW, holding, machines, staged or [])
    return decide(survey, stale_after=timedelta(minutes=15), claim_patience=timedelta(minutes=5))


def kinds(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.kind, action.what) for action in actions]


FILE = "dev/system-state.json"


@pytest.mark.parametrize(
    ("heard", "fate", "machines", "expected"),
    [
        (1, RUNNING, [machine()], []),
        (16, RUNNING, [machine()], [("terminate", "i-1"), ("free", FILE)]),
        (1, GONE, [], [("free", FILE)]),
        (16, GONE, [], [("free", FILE)]),
        (1, UNKNOWN, [], [("leave", FILE)]),
        (16, UNKNOWN, [], [("leave", FILE)]),
    ],
    ids=["fresh-running", "old-running", "fresh-gone", "old-gone", "fresh-unknown", "old-unknown"],
)
def test_heartbeat_and_ec2_together_decide(
    heard: float, fate: Fate, machines: list[Machine], expected: list[tuple[str, str]]
) -> None:
    assert kinds(plan(Holding(state(heard=heard), "e", fate=fate), *machines)) == expected


def test_past_the_deadline_a_healthy_heartbeat_does_not_help() -> None:
    actions = plan(Holding(state(deadline=-1), "e", fate=RUNNING), machine())
    assert kinds(actions) == [("terminate", "i-1"), ("free", FILE)]
    assert "deadline" in actions[0].why and actions[0].run_id == RUN


def test_an_instance_of_no_live_run_is_ended_and_the_live_one_is_not() -> None:
    actions = plan(Holding(state(), "e", fate=RUNNING), machine(), machine(OTHER, name="i-2"))
    assert kinds(actions) == [("terminate", "i-2")]


def test_a_second_instance_of_the_same_run_is_ended() -> None:
    assert kinds(plan(Holding(state(), "e", fate=RUNNING), machine(), machine(name="i-2"))) == [
        ("terminate", "i-2")
    ]


def test_an_instance_without_a_run_tag_belongs_to_nobody() -> None:
    assert kinds(plan(None, machine(None))) == [("terminate", "i-1")]


def test_a_run_that_is_just_powering_off_is_left_to_it() -> None:
    assert kinds(plan(None, machine(age=1))) == [("leave", "i-1")]


def test_a_launch_that_has_not_recorded_its_instance_owns_it() -> None:
    assert plan(Holding(state(instance=None), "e", fate=RUNNING), machine()) == []


@pytest.mark.parametrize(("heard", "kind"), [(1, "leave"), (6, "free")])
def test_a_claim_without_an_instance_has_a_while(heard: float, kind: str) -> None:
    assert kinds(plan(Holding(state(heard=heard, instance=None), "e", fate=GONE))) == [(kind, FILE)]


def test_a_corrupt_file_shields_its_instance_but_does_not_outlive_it() -> None:
    corrupt = Holding(None, "e", problem="not JSON")
    assert kinds(plan(corrupt, machine())) == [("leave", "i-1"), ("leave", FILE)]
    assert kinds(plan(corrupt)) == [("free", FILE)]


def test_staged_bodies_go_once_no_writer_can_be_at_them() -> None:
    staged = [("old", NOW - timedelta(hours=2)), ("new", NOW - timedelta(minutes=1))]
    assert kinds(plan(None, staged=staged)) == [("drop", "old")]
