"""Heartbeat fresh or old, EC2 says running, gone, or nothing: the right word, and the right action."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest
from tools.fault_proxy import Fault, Request
from tools.lab import Lab
from tools.tally import Tally

from chronos_ec2.errors import ChronosError
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now

RUN = "2025-01-15-143022"
FRESH: Final = timedelta(0)
OLD: Final = timedelta(minutes=20)
_NEVER_SEEN: Final = "i-0123456789abcdef0"

# heartbeat, EC2's word: watch's word, what launch does, what reap does
CASES: Final = {
    ("fresh", "running"): ("training", "refuses", "leaves"),
    ("fresh", "gone"): ("training", "takes over", "frees"),
    ("fresh", "silent"): ("training", "refuses", "leaves"),
    ("fresh", "unknown"): ("training", "refuses", "leaves"),
    ("old", "running"): ("stalled", "refuses", "ends"),
    ("old", "gone"): ("gone", "takes over", "frees"),
    ("old", "silent"): ("stalled", "refuses", "leaves"),
    ("old", "unknown"): ("gone", "takes over", "frees"),
}


def silent_ec2(request: Request) -> str | None:
    """EC2 cannot be asked about instances."""
    return "500" if request.operation.name == "DescribeInstances" else None


def scene(lab: Lab, heartbeat: str, ec2: str) -> Fault | None:
    """A run in training. An instance that EC2 does not know may be too young to be shown."""
    lab.clear()
    instance = _NEVER_SEEN if ec2 == "unknown" else lab.machine(RUN)
    if ec2 == "gone":
        lab.aws.ec2.terminate_instances(InstanceIds=[instance])
        lab.wait_for_no_instance()
    age = FRESH if heartbeat == "fresh" else OLD
    lab.claim(RUN, status="training", instance_id=instance, heard=utc_now() - age)
    return silent_ec2 if ec2 == "silent" else None


@pytest.mark.parametrize(("heartbeat", "ec2"), CASES)
def test_watch_has_the_right_word(lab: Lab, tally: Tally, heartbeat: str, ec2: str) -> None:
    fault = scene(lab, heartbeat, ec2)
    word = CASES[heartbeat, ec2][0]
    with lab.proxy(fault) as proxy:
        seen = lab.watch_once(url=proxy.url)
    assert seen["word"] == word, seen
    ended = (lab.record(RUN) or {})["outcome"]
    assert ended == ("lost" if word == "gone" else None)
    tally.count("staleness: watch", f"{heartbeat}, {ec2}: {word}")


@pytest.mark.parametrize(("heartbeat", "ec2"), CASES)
def test_reap_does_the_right_thing(lab: Lab, tally: Tally, heartbeat: str, ec2: str) -> None:
    fault = scene(lab, heartbeat, ec2)
    action = CASES[heartbeat, ec2][2]
    before = (lab.store.read_raw(), lab.instances())
    with lab.proxy(fault) as proxy:
        try:
            code, said = lab.reap(later=timedelta(0), url=proxy.url)
            assert code == ExitCode.OK, said
        except ChronosError as error:
            assert ec2 == "silent", error
    if action == "leaves":
        assert (lab.store.read_raw(), lab.instances()) == before
    else:
        assert lab.state() is None and lab.instances() == {}
        assert (lab.record(RUN) or {})["outcome"] == "lost"
    tally.count("staleness: reap", f"{heartbeat}, {ec2}: {action}")


@pytest.mark.parametrize(("heartbeat", "ec2"), CASES)
def test_launch_does_the_right_thing(lab: Lab, tally: Tally, full: bool, heartbeat: str, ec2: str) -> None:
    if not full and (heartbeat, ec2) != ("fresh", "unknown"):
        pytest.skip("the full form has all cases")
    fault = scene(lab, heartbeat, ec2)
    before = (lab.store.read_raw(), lab.instances())
    with lab.proxy(fault) as proxy:
        end = lab.launch(url=proxy.url).wait()
    action = CASES[heartbeat, ec2][1]
    if action == "refuses":
        assert end.status == ExitCode.HELD and f"run {RUN} holds" in end.stderr, end
        assert (lab.store.read_raw(), lab.instances()) == before
    else:
        assert end.status == 0 and "stale" in end.stderr, end
        assert (lab.record(RUN) or {})["outcome"] == "lost"
        assert RUN not in lab.instances().values()
    tally.count("staleness: launch", f"{heartbeat}, {ec2}: {action}")
