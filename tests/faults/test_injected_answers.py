"""One answer broken at a time: the result is the same as without, or a clean failure that leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from tools.crash import Start, count_requests
from tools.fault_proxy import KINDS, Fault, Request
from tools.lab import ENVIRONMENT, LATER, Lab
from tools.naming import Operation
from tools.programs import Ended, Running
from tools.tally import Tally

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.store import StateStore

RUN = "2025-01-15-143022"
TRANSITION = ("GetObject state", "PutObject staged", "CopyObject state", "DeleteObject staged")
CONDITIONAL = frozenset(
    {"CopyObject state", "DeleteObject state", "PutObject run.json", "PutObject phase log"}
)
"""S3 answers 409 and 412 to requests with a condition alone."""
CLEAN_FAILURES = frozenset(ExitCode) - {ExitCode.OK}


def at(where: int | str, kind: str) -> Fault:
    """A fault of the N-th request, or of the first of an operation."""
    spent: list[Request] = []

    def fault(request: Request) -> str | None:
        if where not in (request.number, str(request.operation)) or spent:
            return None
        spent.append(request)
        return kind

    return fault


def broken(lab: Lab, start: Start, fault: Fault) -> Ended:
    """Run a program with one fault in its way."""
    with lab.proxy(fault) as proxy:
        return start(lab, proxy.url).wait()


# -- one transition -------------------------------------------------------------------------------------


def moved_once(lab: Lab) -> None:
    """The run is at data_sync by one revision, whatever was tried how often."""
    state = lab.state()
    assert state is not None
    assert (state["status"], state["control"]["revision"]) == ("data_sync", 2)


def can_be(operation: str, kind: str) -> bool:
    """Whether AWS gives such an answer to such a request."""
    return kind not in ("409", "412") or operation in CONDITIONAL


@pytest.mark.parametrize("kind", KINDS)
def test_a_transition_in_python(lab: Lab, tally: Tally, kind: str) -> None:
    for operation in [operation for operation in TRANSITION if can_be(operation, kind)]:
        lab.clear()
        lab.claim(RUN)
        with lab.proxy(at(operation, kind)) as proxy:
            store = StateStore(lab.s3_by(proxy.url), lab.bucket, ENVIRONMENT)
            store.transition(RUN, "data_sync", "data_sync")
        moved_once(lab)
        tally.count("answers broken, transition in Python", "same result")
        lab.history.check()


def test_a_transition_in_bash(lab: Lab, tally: Tally, full: bool) -> None:
    def start(lab: Lab, url: str) -> Running:
        return lab.bash(
            'transition_state "$@"', lab.bucket, ENVIRONMENT, RUN, "data_sync", "data_sync", url=url
        )

    for operation in TRANSITION if full else TRANSITION[2:3]:
        for kind in [kind for kind in KINDS if can_be(operation, kind)] if full else ("lost", "412"):
            lab.clear()
            lab.claim(RUN)
            end = broken(lab, start, at(operation, kind))
            assert end.status == 0, (operation, kind, end)
            moved_once(lab)
            tally.count("answers broken, transition in Bash", "same result")
            lab.history.check()


# -- whole scripts --------------------------------------------------------------------------------------


def each_fault(operations: list[Operation]) -> list[tuple[int | str, str]]:
    """All requests with all kinds of broken answers that AWS can give to them."""
    numbered = list(enumerate(map(str, operations), start=1))
    return [(number, kind) for number, name in numbered for kind in KINDS if can_be(name, kind)]


def launch(lab: Lab, url: str) -> Running:
    """The launch script."""
    return lab.launch(url=url)


def kill(lab: Lab, url: str) -> Running:
    """The kill script, asking first."""
    return lab.kill(url=url)


def sweep(
    lab: Lab, start: Start, faults: Sequence[tuple[int | str, str]], judge: Callable[[Lab, Ended, str], str]
) -> list[str]:
    """Break one answer after the other; how each case ended."""
    outcomes = []
    for where, kind in faults:
        lab.clear()
        if start is kill:
            lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
        end = broken(lab, start, at(where, kind))
        outcomes.append(judge(lab, end, f"request {where}, {kind}: {end}"))
        lab.history.check()
    return outcomes


def test_a_launch(lab: Lab, tally: Tally, full: bool) -> None:
    faults = each_fault(count_requests(lab, launch)) if full else [("RunInstances", "lost")]
    for outcome in sweep(lab, launch, faults, judge_launch):
        tally.count("answers broken, launch", outcome)


def judge_launch(lab: Lab, end: Ended, where: str) -> str:
    """Launched as if nothing had been, or refused with its own code and nothing left."""
    live = lab.instances()
    if end.status == 0:
        said = json.loads(end.stdout)
        assert live == {said["instance_id"]: said["run_id"]}, where
        record, state = lab.record(said["run_id"]), lab.state()
        assert state is not None and state["run_id"] == said["run_id"], where
        assert record is not None and record["outcome"] is None, where
        return "same result"
    assert end.status in CLEAN_FAILURES and "ERROR" in end.stderr, where
    assert live == {}, where
    code, said_by_reap = lab.reap(later=LATER)
    assert code == ExitCode.OK and lab.state() is None and lab.instances() == {}, where + said_by_reap
    return "clean failure"


def test_a_kill(lab: Lab, tally: Tally, full: bool) -> None:
    if not full:
        pytest.skip("the full form breaks each of its answers")
    lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
    faults = each_fault(count_requests(lab, kill))
    for outcome in sweep(lab, kill, faults, judge_kill):
        tally.count("answers broken, kill", outcome)


def judge_kill(lab: Lab, end: Ended, where: str) -> str:
    """Ended and free, or a failure after which the next kill ends it."""
    if end.status == 0:
        assert lab.instances() == {} and lab.state() is None, where
        assert (lab.record(RUN) or {})["outcome"] == "killed", where
        return "same result"
    assert end.status in CLEAN_FAILURES and "ERROR" in end.stderr, where
    assert lab.kill("--now").wait().status == 0, where
    assert lab.instances() == {} and lab.state() is None, where
    return "clean failure, the next kill ends it"
