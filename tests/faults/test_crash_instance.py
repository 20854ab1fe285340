"""The bootstrap, and the wrapper under it, stopped with SIGKILL at any request of their instance."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tools.crash import points
from tools.endings import next_launch_is_accepted, reap_ends_it, records_tell
from tools.fault_proxy import Held, Match, Request
from tools.guest_processes import Find, boot_scripts, bootstrap, processes, wrapper
from tools.lab import Lab
from tools.tally import Tally

MOST_REQUESTS = 120
"""More than an instance makes in a run that trains nothing; the sweep ends where the run does."""
AT_ONCE = 20
"""Requests that a test sweeps over."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The full form sweeps over all requests of both victims, a part a test."""
    if "victim" not in metafunc.fixturenames:
        return
    full = bool(metafunc.config.getoption("--full", False))
    victims, firsts = (
        ([bootstrap, boot_scripts], range(1, MOST_REQUESTS, AT_ONCE)) if full else ([bootstrap], [1])
    )
    cases = [(victim, first) for victim in victims for first in firsts]
    ids = [f"{victim.__name__} from request {first} on" for victim, first in cases]
    metafunc.parametrize(("victim", "first"), cases, ids=ids)


def since_bootstrap(number: int) -> Match:
    """Matches the N-th request from the first of bootstrap.sh on, which is a state write."""
    seen = 0

    def match(request: Request) -> bool:
        nonlocal seen
        seen += bool(seen) or str(request.operation) == "PutObject staged"
        return seen == number

    return match


def entering(status: str) -> Match:
    """Matches the request that stages the state of a phase."""
    wanted = f'"status":"{status}"'.encode()
    return lambda request: str(request.operation) == "PutObject staged" and wanted in request.body


def run_until(lab: Lab, match: Match, *, after_effect: bool, victim: Find) -> Held | None:
    """Launch a run, hold one request of its instance, kill the victim there; None if it never came to it."""
    with lab.proxy() as laptop, lab.proxy() as proxy:
        lab.put_guests_to_sleep(False, proxy.url)
        proxy.hold(match, after_effect=after_effect)
        end = lab.launch("--set", "heartbeat_seconds=1", url=laptop.url).wait()
        lab.put_guests_to_sleep(True)
        assert end.status == 0, end.stderr
        instance = json.loads(end.stdout)["instance_id"]
        disk = lab.home / "instances" / instance
        held = proxy.wait_held(120, unless=lambda: not lab.instances(), every=0.5)
        found = victim(disk) if held is not None else []
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        proxy.release_all()
        if held is not None:
            held.release()
        if victim is boot_scripts and found:
            _let_orphans_end(disk)
        else:
            lab.wait_for_no_instance(60)  # who lives cleans up, or powers off
        return held if found else None


def _let_orphans_end(disk: Path) -> None:
    """What the bootstrap had started goes on for a moment; the machine itself stays, and bills."""
    end = time.monotonic() + 10
    while time.monotonic() < end and (processes(disk, "/training_wrapper.py") or processes(disk, "/aws")):
        time.sleep(0.1)


def test_a_bootstrap_that_is_killed(lab: Lab, tally: Tally, full: bool, victim: Find, first: int) -> None:
    """The user data powers off; if that is gone too, the machine bills on until its deadline or reap."""
    proof = f"{victim.__name__.replace('_', ' ')} killed"
    if not full:
        assert run_until(lab, entering("data_sync"), after_effect=False, victim=victim) is not None
        assert lab.instances() == {}
        reap_ends_it(lab)
        assert records_tell(lab) == ["lost"]
        tally.count(proof, "lost")
        return
    for point in points(first + AT_ONCE - 1):
        if int(point.where) < first or point.after_effect != (victim is bootstrap):
            continue
        lab.clear()
        match = since_bootstrap(int(point.where))
        held = run_until(lab, match, after_effect=point.after_effect, victim=victim)
        if held is None and not lab.instances() and lab.state() is None:
            records_end(lab)
            break
        reap_ends_it(lab)
        outcomes = records_tell(lab)
        assert len(outcomes) == 1
        next_launch_is_accepted(lab)
        tally.count(proof, outcomes[0])


def records_end(lab: Lab) -> None:
    """Every run has an end."""
    for run_id in lab.run_ids():
        assert (lab.record(run_id) or {})["outcome"], run_id


def of_wrapper(number: int) -> Match:
    """Matches the N-th request that the wrapper makes: the first of Boto3 once the state says training."""
    seen, training = 0, False

    def match(request: Request) -> bool:
        nonlocal seen, training
        name = str(request.operation)
        training = training or (name == "PutObject staged" and b'"training"' in request.body)
        ours = training and "Boto3" in request.headers.get("user-agent", "")
        seen += ours
        return ours and seen == number

    return match


def test_a_wrapper_that_is_killed(lab: Lab, tally: Tally, full: bool) -> None:
    """The bootstrap sees it, records the failure and cleans up: nothing is left, without any reap."""
    if not full:
        pytest.skip("the full form stops it at every request of its first two heartbeats")
    for point in points(8):
        lab.clear()
        held = run_until(lab, of_wrapper(int(point.where)), after_effect=point.after_effect, victim=wrapper)
        assert held is not None, point
        assert lab.state() is None
        (run_id,) = lab.run_ids()
        record = lab.record(run_id)
        assert record is not None and record["outcome"] == "failed", record
        assert (record["failed_step"], record["exit_code"]) == ("training", 137), record
        tally.count("wrapper killed", "failed, cleaned up by the bootstrap")
