"""Many writers at once: one wins, the others hear who."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from tools.fault_proxy import Request
from tools.lab import ENVIRONMENT, Lab
from tools.programs import Running
from tools.races import (
    RUN,
    Actor,
    Beat,
    bash_delete,
    bash_move,
    beat,
    kill,
    kill_now,
    last_acts,
    launch,
    race,
)
from tools.tally import Tally

from chronos_ec2.exit_codes import ExitCode

PATIENCE = 900
"""Seconds before a crowd of programs on two cores counts as hung."""


def test_of_many_launches_one_wins(lab: Lab, tally: Tally, full: bool) -> None:
    count, rounds = (50, 20) if full else (8, 1)
    for _ in range(rounds):
        lab.clear()
        contend(lab, count)
        lab.history.check()
        tally.count(f"{count} launches at once", f"one run and {count - 1} refusals that name it")


def contend(lab: Lab, count: int) -> None:
    """All launchers see a free environment, and only then may any of them claim it.

    Each has a proxy of its own: one whose read is held for too long asks again, and must not count for two.
    """
    with ExitStack() as stack:
        proxies = [stack.enter_context(lab.proxy()) for _ in range(count)]
        for proxy in proxies:
            proxy.hold(_reads_state, once=False)
        launches = [lab.launch(url=proxy.url) for proxy in proxies]
        held = [
            proxy.wait_held(PATIENCE, unless=running.over)
            for proxy, running in zip(proxies, launches, strict=True)
        ]
        for proxy, one in zip(proxies, held, strict=True):
            proxy.release_all()
            if one is not None:
                one.release()
        ends = [launch.wait(PATIENCE) for launch in launches]
    assert None not in held, [(end.status, end.stderr) for end in ends]
    winners = [end for end in ends if end.status == 0]
    refused = [end for end in ends if end.status == ExitCode.HELD]
    assert len(winners) == 1, [(end.status, end.stderr) for end in ends if end.status != ExitCode.HELD]
    run_id = json.loads(winners[0].stdout)["run_id"]
    assert len(refused) == count - 1, [(end.status, end.stderr) for end in ends]
    assert [end.stderr for end in refused if f"run {run_id} holds {ENVIRONMENT}" not in end.stderr] == []
    assert list(lab.instances().values()) == [run_id]
    assert lab.run_ids() == {run_id}
    assert lab.staged() == []


def test_a_failed_claim_of_the_same_second_is_no_claim(lab: Lab, tally: Tally) -> None:
    """Run ids count seconds: who fails to claim must not give the winner's claim back as its own."""
    body = lab.claim(RUN)
    loser = json.dumps(body | {"control": body["control"] | {"writer": "1" * 16}})
    quick = '_backoff_seconds() { echo 0; }; AWS_MAX_ATTEMPTS=1 atomic_write_state "$@"'
    with lab.proxy(lambda request: "500" if request.operation.name == "CopyObject" else None) as proxy:
        end = lab.bash(quick, lab.bucket, ENVIRONMENT, loser, "", url=proxy.url).wait()
    assert end.status == ExitCode.STATE_CONFLICT, end
    assert lab.state() == body
    tally.count("failed claim beside a winner of the same second", "lost, nothing given back")


def _reads_state(request: Request) -> bool:
    return str(request.operation) == "GetObject state"


# -- two writers in every order -------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_a_heartbeat_does_not_undo_a_kill(lab: Lab, tally: Tally, full: bool, order: tuple[int, ...]) -> None:
    for killer in [bash_move("killed", "step_8")] + ([kill] if full else []):
        lab.clear()
        lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
        _, heart = race(lab, [killer, beat], order)
        left = lab.state()
        assert isinstance(heart, Beat)
        if killer is kill:
            assert left is None and lab.instances() == {}
            assert (lab.record(RUN) or {})["outcome"] == "killed"
        else:
            assert left is not None and left["status"] == "killed"
            assert heart.lost or order == (1, 0), "a heartbeat after the kill is told"
        tally.count("kill against heartbeat", "killed")


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_a_kill_and_a_finish_both_end_the_run(
    lab: Lab, tally: Tally, full: bool, order: tuple[int, ...]
) -> None:
    instance = lab.machine(RUN)
    lab.claim(RUN, status="results_sync", instance_id=instance)
    finish = bash_move("cleanup", "cleanup")
    race(lab, [bash_move("failed", "results_sync"), finish], order)
    left = lab.state()
    assert left is not None and left["status"] == "cleanup"
    race(lab, [bash_delete, kill_now if full else bash_delete], order)
    assert lab.state() is None
    tally.count("kill against finish", "ended, environment free")


def test_two_kills_end_it_once(lab: Lab, tally: Tally, full: bool) -> None:
    for order in [(0, 1), (1, 0)] if full else [(0, 1)]:
        lab.clear()
        lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
        ends = race(lab, [kill_now, kill_now], order)
        assert lab.state() is None and lab.instances() == {}
        assert (lab.record(RUN) or {})["outcome"] == "killed"
        assert len(ends) == 2
        tally.count("two kills", "ended once, environment free")


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_a_launch_beside_a_cleanup(lab: Lab, tally: Tally, order: tuple[int, ...]) -> None:
    """The old run's machine is gone; its last act is still under way when the new launch comes."""
    instance = lab.machine(RUN)
    lab.claim(RUN, status="cleanup", instance_id=instance)
    lab.aws.ec2.terminate_instances(InstanceIds=[instance])
    lab.wait_for_no_instance()
    launched = race(lab, [bash_delete, launch], order)[1]
    end = launched.wait()
    assert end is not None and end.status in (0, ExitCode.HELD), end
    left = lab.state()
    if end.status == 0:
        assert left is not None and left["run_id"] == json.loads(end.stdout)["run_id"], (
            "it was deleted by the old"
        )
        assert list(lab.instances().values()) == [left["run_id"]]
    else:
        assert left is None and lab.instances() == {}
    tally.count("launch against cleanup", "launched" if end.status == 0 else "refused, environment free")


# -- many of them at once -------------------------------------------------------------------------------

CROWD, ROUNDS = 8, 20


def ended_by_kills(lab: Lab, ends: Sequence[Running | Beat]) -> None:
    """The run is ended and recorded, the environment free; no kill says otherwise."""
    codes = [end.wait().status for end in ends if isinstance(end, Running)]
    assert set(codes) <= {ExitCode.OK, ExitCode.STATE_CONFLICT} and ExitCode.OK in codes, codes
    assert lab.state() is None and lab.instances() == {}


def test_a_crowd_of_kills(lab: Lab, tally: Tally, full: bool) -> None:
    """Kills, half of them in a hurry: alone, among heartbeats, beside an instance that finishes."""
    if not full:
        pytest.skip("the full form has crowds")
    kills: list[Actor] = [kill, kill_now] * (CROWD // 2)
    others: dict[str, tuple[str, list[Actor]]] = {
        "kills at once": ("training", []),
        "kills and heartbeats at once": ("training", [beat] * CROWD),
        "kills beside a finish": ("results_sync", [last_acts]),
    }
    for proof, (status, company) in others.items():
        for _ in range(ROUNDS):
            lab.clear()
            lab.claim(RUN, status=status, instance_id=lab.machine(RUN))
            ended_by_kills(lab, race(lab, kills + company, None))
            outcome = (lab.record(RUN) or {})["outcome"]
            assert outcome == "killed" or (company == [last_acts] and outcome == "succeeded"), outcome
            lab.history.check()
            tally.count(f"{CROWD} {proof}", f"{outcome} once, environment free")


def test_a_crowd_of_launches_beside_a_cleanup(lab: Lab, tally: Tally, full: bool) -> None:
    """Of the launches that come while the old run's last act is under way one wins, or none."""
    if not full:
        pytest.skip("the full form has crowds")
    for _ in range(ROUNDS):
        lab.clear()
        instance = lab.machine(RUN)
        lab.claim(RUN, status="cleanup", instance_id=instance)
        lab.aws.ec2.terminate_instances(InstanceIds=[instance])
        lab.wait_for_no_instance()
        ends = [end.wait() for end in race(lab, [bash_delete, *[launch] * CROWD], None)[1:]]
        codes = [end.status for end in ends if end is not None]
        assert set(codes) <= {ExitCode.OK, ExitCode.HELD} and codes.count(ExitCode.OK) <= 1, ends
        state = lab.state()
        owners = [] if state is None else [state["run_id"]]
        assert len(owners) == codes.count(ExitCode.OK) and list(lab.instances().values()) == owners
        lab.history.check()
        outcome = "one launched" if owners else "all refused, environment free"
        tally.count(f"{CROWD} launches beside a cleanup", outcome)
