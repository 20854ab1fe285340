"""Many writers at once: one wins, the others hear who."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from tools.fault_proxy import FaultProxy, Request
from tools.lab import ENVIRONMENT, Lab
from tools.programs import Running
from tools.tally import Tally

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.instance.heartbeat import Heartbeat
from chronos_ec2.state.store import StateStore

RUN = "2025-01-15-143022"
OTHER = "2025-01-15-150000"


def test_of_many_launches_one_wins(lab: Lab, tally: Tally, full: bool) -> None:
    count, rounds = (50, 20) if full else (8, 1)
    for _ in range(rounds):
        lab.clear()
        contend(lab, count)
        lab.history.check()
        tally.count(f"{count} launches at once", f"one run and {count - 1} refusals that name it")


def contend(lab: Lab, count: int) -> None:
    """All launchers see a free environment, and only then may any of them claim it."""
    with lab.proxy() as proxy:
        proxy.hold(_reads_state, once=False)
        launches = [lab.launch(url=proxy.url) for _ in range(count)]
        held = [proxy.wait_held(120) for _ in range(count)]
        proxy.release_all()
        for one in held:
            assert one is not None
            one.release()
        ends = [launch.wait(240) for launch in launches]
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


def publishes(request: Request) -> bool:
    """Whether a request would change the state file."""
    return request.operation.kind == "state" and request.operation.name in ("CopyObject", "DeleteObject")


# -- two or three writers in every order ---------------------------------------------------------------


@dataclass
class Beat:
    """One heartbeat of an instance, in this process."""

    lost: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None

    def over(self) -> bool:
        """Whether it has been written, or given up."""
        return self.thread is not None and not self.thread.is_alive()

    def wait(self) -> None:
        """Wait for it."""
        assert self.thread is not None
        self.thread.join(60)


def beat(lab: Lab, url: str) -> Beat:
    """Start a heartbeat of the run that holds the environment."""
    done = Beat()
    client, bucket = lab.s3_by(url), lab.bucket
    heart = Heartbeat(
        lambda: StateStore(client, bucket, ENVIRONMENT),
        RUN,
        interval_seconds=3600,
        progress=lambda: "step_9",
        on_lost=done.lost.append,
        log=done.log.append,
    )
    heart.stop()  # no pause: a stopped heart beats once at its start and once at its end
    done.thread = heart._thread
    heart.start(7)
    return done


Actor = Callable[[Lab, str], Running | Beat]


def bash_move(status: str, step: str) -> Actor:
    """The instance's, or a kill's, transition in Bash."""

    def start(lab: Lab, url: str) -> Running:
        return lab.bash('transition_state "$@"', lab.bucket, ENVIRONMENT, RUN, status, step, url=url)

    return start


def bash_delete(lab: Lab, url: str) -> Running:
    """The last act of an instance."""
    return lab.bash('delete_state "$@"', lab.bucket, ENVIRONMENT, RUN, url=url)


def kill_now(lab: Lab, url: str) -> Running:
    """The whole kill script."""
    return lab.kill("--now", url=url)


def kill(lab: Lab, url: str) -> Running:
    """The whole kill script, asking first."""
    return lab.kill(url=url)


def launch(lab: Lab, url: str) -> Running:
    """The whole launch script."""
    return lab.launch(url=url)


def race(lab: Lab, actors: list[Actor], order: tuple[int, ...]) -> list[Running | Beat]:
    """Start all; hold each before its first change of the state file; let them go on in an order.

    The next goes on when the one before has ended, or has come to a second change.
    """
    with ExitStack() as stack:
        proxies = [stack.enter_context(lab.proxy()) for _ in actors]
        for proxy in proxies:
            proxy.hold(publishes)
        running = [actor(lab, proxy.url) for actor, proxy in zip(actors, proxies, strict=True)]
        held = [proxy.wait_held(60, unless=one.over) for proxy, one in zip(proxies, running, strict=True)]
        for index in order:
            waiting, proxy = held[index], proxies[index]
            if waiting is not None:
                waiting.release()
                _await_effect(proxy, waiting.request, running[index])
        for one in running:
            one.wait()
    return running


def _await_effect(proxy: FaultProxy, request: Request, running: Running | Beat) -> None:
    while request.number not in proxy.answered and not running.over():
        threading.Event().wait(0.005)


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
