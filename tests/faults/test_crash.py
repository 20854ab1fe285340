"""Programs stopped with SIGKILL between two AWS calls: nothing is owned twice, nothing is left for ever."""

from __future__ import annotations

import json
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from tools.crash import Point, Start, count_requests, crash, points
from tools.endings import next_launch_is_accepted, reap_ends_it, records_tell
from tools.lab import ENVIRONMENT, Lab
from tools.programs import Running
from tools.races import RUN, kill_now, launch
from tools.tally import Tally

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.settings import REPOSITORY

PYTHON_WRITER = """
import sys, boto3
from chronos_ec2.state.store import StateStore
bucket, environment, run_id, status, step = sys.argv[1:]
StateStore(boto3.client("s3"), bucket, environment).transition(run_id, status, step)
"""


def bash_writer(lab: Lab, url: str) -> Running:
    """The state writer in Bash."""
    return lab.bash('transition_state "$@"', lab.bucket, ENVIRONMENT, RUN, "data_sync", "data_sync", url=url)


def python_writer(lab: Lab, url: str) -> Running:
    """The state writer in Python."""
    words = (lab.bucket, ENVIRONMENT, RUN, "data_sync", "data_sync")
    python = str(REPOSITORY / ".venv" / "bin" / "python")
    return lab.start([python, "-c", PYTHON_WRITER, *words], url)


# -- the launcher ---------------------------------------------------------------------------------------

CLAIMED, STARTED = Point("CopyObject state", True), Point("RunInstances", True)
"""The launcher has published its claim; EC2 has started its instance."""


def test_a_launcher_that_is_killed(lab: Lab, tally: Tally, full: bool) -> None:
    where = list(points(len(count_requests(lab, launch)))) if full else [STARTED]
    for point in where:
        lab.clear()
        operation = crash(lab, launch, point)
        assert operation is not None, point
        claimed = (lab.state() or {}).get("run_id")
        reap_ends_it(lab)
        outcomes = records_tell(lab)
        assert claimed is None or lab.record(claimed), f"{point} ({operation}): no record of {claimed}"
        if full:
            next_launch_is_accepted(lab)
        tally.count("launcher killed", " ".join(outcomes) or "no trace")
        lab.history.check()


def test_a_launch_after_a_launcher_that_was_killed(lab: Lab, tally: Tally, full: bool) -> None:
    """Without a reap: what is proven gone is taken over, what runs is named, and `kill` frees it."""
    where = list(points(len(count_requests(lab, launch)))) if full else [CLAIMED]
    for point in where:
        lab.clear()
        crash(lab, launch, point)
        live = lab.instances()
        second = lab.launch("--set", "claim_patience_seconds=0").wait()
        if live:
            assert second.status == ExitCode.HELD and lab.instances() == live, second.stderr
            assert next(iter(live.values())) in second.stderr
            assert lab.kill("--now").wait().status == 0
            assert lab.instances() == {} and lab.state() is None
            tally.count("launch after a killed launcher", "refused, then killed")
        else:
            assert second.status in (0, ExitCode.HELD), second.stderr
            if second.status == ExitCode.HELD:  # the claim is not a second old
                second = lab.launch("--set", "claim_patience_seconds=0").wait()
            assert second.status == 0, second.stderr
            tally.count("launch after a killed launcher", "launched")
        lab.history.check()


# -- the writers ----------------------------------------------------------------------------------------


PUBLISHED = Point(3, True)
"""Read, stage, publish, drop."""


@pytest.mark.parametrize("writer", [bash_writer, python_writer], ids=["bash", "python"])
def test_a_state_writer_that_is_killed(lab: Lab, tally: Tally, full: bool, writer: Start) -> None:
    """The file is what it was or what was written, whole; the next writer goes on from there."""
    for point in points(4) if full else (Point(3, False), PUBLISHED):
        lab.clear()
        before = lab.claim(RUN, instance_id=lab.machine(RUN))
        assert crash(lab, writer, point) is not None
        state = lab.state()
        landed = point in (PUBLISHED, Point(4, False), Point(4, True))
        assert state is not None
        assert state["status"] == ("data_sync" if landed else "initialization"), point
        assert state["control"]["revision"] == before["control"]["revision"] + landed
        end = bash_writer(lab, lab.url).wait() if full else None
        assert end is None or end.status == 0, end
        reap_ends_it(lab)
        records_tell(lab)
        code, _ = lab.reap(later=timedelta(hours=2))
        assert code == ExitCode.OK and lab.staged() == []
        tally.count("state writer killed", "new state" if landed else "old state")


def wrapper(lab: Lab, url: str) -> Running:
    """The training wrapper with a command that takes its time, as if on an instance."""
    folder = Path(tempfile.mkdtemp(dir=lab.folder))
    config = {"run_id": RUN, "environment": ENVIRONMENT, "trainer": "command", "accelerator": "cpu"}
    (folder / "config.yaml").write_text(
        json.dumps(config | {"command": ["sleep", "60"], "heartbeat_seconds": 1})
    )
    python, script = REPOSITORY / ".venv/bin/python", REPOSITORY / "python/training_wrapper.py"
    places = ("--config", folder / "config.yaml", "--data", folder, "--output", folder / "output")
    run = ("--bucket", lab.bucket, "--env", ENVIRONMENT, "--run-id", RUN)
    return lab.start([str(word) for word in (python, script, *places, *run)], url)


def test_a_wrapper_that_is_killed(lab: Lab, tally: Tally, full: bool) -> None:
    """The state stays whole and at training; reap ends the machine."""
    for point in points(8) if full else [Point(3, True)]:
        lab.clear()
        lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
        assert crash(lab, wrapper, point) is not None
        state = lab.state()
        assert state is not None and (state["run_id"], state["status"]) == (RUN, "training")
        reap_ends_it(lab)
        assert records_tell(lab) == ["lost"]
        tally.count("wrapper killed, alone", "lost")
        lab.history.check()


def test_a_kill_that_is_killed(lab: Lab, tally: Tally, full: bool) -> None:
    """The next kill, or reap, ends what it has left."""
    if not full:
        pytest.skip("the full form stops it at every request")
    lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
    for point in points(len(count_requests(lab, kill_now))):
        lab.clear()
        lab.claim(RUN, status="training", instance_id=lab.machine(RUN))
        crash(lab, kill_now, point)
        if point.after_effect:
            assert lab.kill("--now").wait().status == 0
            assert lab.instances() == {} and lab.state() is None
        else:
            reap_ends_it(lab)
        assert set(records_tell(lab)) <= {"killed", "lost"}
        tally.count("kill killed", "ended by the next kill" if point.after_effect else "ended by reap")
