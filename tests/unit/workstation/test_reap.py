"""What `invoke reap` ends, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.outcome import Fate
from chronos_ec2.workstation.outside_switch import Switch
from chronos_ec2.workstation.prices_cache import Rate
from chronos_ec2.workstation.reap_cost import usd_a_day
from chronos_ec2.workstation.reap_model import Action, Holding, Machine, SpotRequest, Survey, Volume
from chronos_ec2.workstation.reap_plan import decide

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


def switch(run_id: str) -> Switch:
    return Switch(f"chronos-dev-{run_id}", "dev", run_id)


def volume(run_id: str = RUN) -> Volume:
    return Volume("vol-1", run_id, NOW - timedelta(hours=3), 100)


def request(run_id: str = RUN) -> SpotRequest:
    return SpotRequest("sir-1", run_id, NOW - timedelta(hours=3))


def survey_of(
    holding: Holding | None,
    *machines: Machine,
    staged: list[tuple[str, datetime]] | None = None,
    **more: Any,
) -> Survey:
    return Survey("dev", NOW, holding, machines, staged or [], **more)


def decide_on(survey: Survey) -> list[Action]:
    return decide(survey, stale_after=timedelta(minutes=15), claim_patience=timedelta(minutes=5))


def plan(
    holding: Holding | None, *machines: Machine, staged: list[tuple[str, datetime]] | None = None
) -> list[Action]:
    return decide_on(survey_of(holding, *machines, staged=staged))


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


# -- deadlines without S3 -----------------------------------------------------------------------------


def test_a_machines_own_deadline_needs_no_state_file() -> None:
    late = replace(machine(), deadline=NOW - timedelta(minutes=1))
    early = replace(machine(name="i-2"), deadline=NOW + timedelta(minutes=1))
    blind = replace(survey_of(None, late, early), blind="S3 does not answer")
    actions = decide_on(blind)
    assert kinds(actions) == [("terminate", "i-1"), ("leave", "i-2")]
    assert "S3 does not answer" in actions[1].why


def test_nothing_else_is_touched_while_s3_is_silent() -> None:
    seen = survey_of(None, switches=[switch(RUN)], volumes=[volume()], spot_requests=[request()])
    assert decide_on(replace(seen, blind="S3 does not answer")) == []
    assert {action.kind for action in decide_on(seen)} == {"disarm", "delete", "cancel"}


def test_past_its_deadline_a_machine_of_a_corrupt_state_goes_and_the_environment_is_free() -> None:
    corrupt = Holding(None, "e", problem="not JSON")
    late = replace(machine(), deadline=NOW - timedelta(minutes=1))
    assert kinds(plan(corrupt, late)) == [("terminate", "i-1"), ("free", FILE)]
    assert kinds(plan(corrupt, late, machine(name="i-2"))) == [
        ("terminate", "i-1"),
        ("leave", "i-2"),
        ("leave", FILE),
    ]


def test_the_machines_own_deadline_counts_not_that_of_a_claim_that_was_written_before_it() -> None:
    searched = replace(machine(), deadline=NOW + timedelta(minutes=30))
    assert plan(Holding(state(deadline=-1), "e", fate=RUNNING), searched) == []


# -- what machines leave behind -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holding", "machines", "live"),
    [
        (Holding(state(), "e", fate=RUNNING), [machine()], True),
        (Holding(state(instance=None), "e", fate=UNKNOWN), [], True),  # it may still be launching
        (None, [machine(age=1)], True),  # it has just freed the environment, and may fail to power off
        (None, [machine()], False),  # it is being ended
        (Holding(state(), "e", fate=GONE), [], False),  # it is being freed
        (None, [], False),
        (Holding({**state(), "run_id": OTHER}, "e", fate=UNKNOWN), [], False),  # the holder is another run
    ],
    ids=["running", "launching", "ending", "ended", "lost", "nothing", "another"],
)
def test_what_a_live_run_has_stays_and_what_an_ended_run_left_goes(
    holding: Holding | None, machines: list[Machine], live: bool
) -> None:
    seen = survey_of(
        holding, *machines, switches=[switch(RUN)], volumes=[volume()], spot_requests=[request()]
    )
    actions = kinds(decide_on(seen))
    left = [("disarm", f"chronos-dev-{RUN}"), ("delete", "vol-1"), ("cancel", "sir-1")]
    assert [action for action in actions if action in left] == ([] if live else left)


def test_a_volume_or_a_request_that_is_just_made_may_belong_to_a_machine_not_shown_yet() -> None:
    young = NOW - timedelta(seconds=30)
    seen = survey_of(
        None,
        volumes=[replace(volume(), created_at=young)],
        spot_requests=[replace(request(), created_at=young)],
    )
    assert decide_on(seen) == []


@pytest.mark.parametrize(
    ("changes", "armed"),
    [
        ({}, True),
        ({"wants_switch": False}, False),
        ({"switches": None}, False),
        ({"switches": [Switch(f"chronos-dev-{RUN}", "dev", RUN)]}, False),
        ({"machines": [machine(age=1)]}, False),  # its launch may be about to arm it
        ({"machines": []}, False),
        ({"machines": [machine(OTHER)]}, False),
        ({"holding": Holding(state(deadline=-1), "e", fate=RUNNING)}, False),  # it is being ended
        ({"blind": "S3 does not answer"}, False),
    ],
    ids=["yes", "not wanted", "no stack", "armed", "young", "no machine", "stranger", "overdue", "blind"],
)
def test_a_live_run_whose_launch_ended_too_early_gets_its_outside_switch(
    changes: dict[str, Any], armed: bool
) -> None:
    seen = survey_of(Holding(state(), "e", fate=RUNNING), machine(), switches=[])
    actions = decide_on(replace(seen, **{"wants_switch": True, **changes}))
    assert (("arm", f"chronos-dev-{RUN}") in kinds(actions)) is armed


def test_what_could_not_be_listed_is_said() -> None:
    seen = replace(survey_of(None), unseen=[("volumes", "refused")])
    assert [str(action) for action in decide_on(seen)] == ["leave     volumes: refused"]


# -- money ------------------------------------------------------------------------------------------------


def test_the_cost_of_a_day_counts_what_is_to_go() -> None:
    rates = {
        name: Rate(usd, "x", "y") for name, usd in (("compute:a", 1.0), ("address", 0.005), ("disk", 0.08))
    }
    seen = survey_of(None, replace(machine(), instance_type="a"), volumes=[volume()])
    assert usd_a_day(seen, decide_on(seen), rates) == pytest.approx(24 * 1.005 + 100 * 0.08 / 30)
    assert usd_a_day(seen, [], rates) == 0
    assert usd_a_day(seen, decide_on(seen), {}) is None


def cluster(*ended: str, ids: list[str] | None = None, heard: float = 1) -> Holding:
    """The state of a run of two machines, i-1 and i-2, of which some have ended."""
    body = state(heard=heard)
    body["control"] |= {"nodes": 2, "instance_ids": ["i-1", "i-2"] if ids is None else ids}
    return Holding(body, "etag", fate=Fate("running", "it runs", ended_ids=ended))


def test_all_machines_of_a_run_own_the_environment() -> None:
    both = machine(), machine(name="i-2")
    assert decide_on(survey_of(cluster(), *both)) == []
    assert decide_on(survey_of(cluster(ids=[]), *both)) == []
    (stray,) = decide_on(survey_of(cluster(), *both, machine(name="i-3")))
    assert (stray.kind, stray.what) == ("terminate", "i-3")


def test_the_rest_of_a_run_whose_first_machine_is_gone_is_ended_and_the_environment_freed() -> None:
    actions = decide_on(survey_of(cluster("i-1"), machine(name="i-2")))
    assert [(one.kind, one.what) for one in actions] == [
        ("terminate", "i-2"),
        ("free", "dev/system-state.json"),
    ]
    assert "trains with i-1, which is gone" in actions[0].why
    assert decide_on(survey_of(cluster("i-2"), machine())) == [], "the first one ends the run itself"


def test_a_silent_run_of_several_machines_ends_as_a_whole() -> None:
    actions = decide_on(survey_of(cluster(heard=20), machine(), machine(name="i-2")))
    assert [(one.kind, one.what) for one in actions] == [
        *(("terminate", "i-1"), ("terminate", "i-2"), ("free", "dev/system-state.json"))
    ]


def test_each_machine_without_its_outside_switch_gets_it_late() -> None:
    both = machine(), replace(machine(name="i-2"), node=1)
    armed = [switch(RUN)]
    (arm,) = decide_on(survey_of(cluster(), *both, switches=armed, wants_switch=True))
    assert (arm.kind, arm.what) == ("arm", f"chronos-dev-{RUN}-1")
    arms = decide_on(survey_of(cluster(), *both, switches=[], wants_switch=True))
    assert [one.what for one in arms] == [f"chronos-dev-{RUN}", f"chronos-dev-{RUN}-1"]
