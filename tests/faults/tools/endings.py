"""What must be true once the programs of a proof have ended, however they did."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from chronos_ec2.exit_codes import ExitCode
from tools.lab import LATER, Lab

SOON: Final = timedelta(minutes=6)
"""Past the patience with a claim that has no instance, before any deadline and staleness."""


def reap_leaves_nothing(lab: Lab) -> None:
    """After `reap` no instance is without an owner; at last there is none, and no claim."""
    code, said = lab.reap(later=SOON)
    assert code == ExitCode.OK, said
    state = lab.state()
    for run_id in lab.instances().values():
        assert state is not None and state["run_id"] == run_id, f"{run_id} has no owner: {said}"
    code, said = lab.reap(later=LATER)
    assert code == ExitCode.OK, said
    assert lab.instances() == {} and lab.state() is None, said


def reap_ends_it(lab: Lab) -> None:
    """What holds after any crash: one owner at most; after `reap` nothing without one, at last nothing."""
    live = lab.instances()
    assert len(live) <= 1, f"{len(live)} instances of one environment: {live}"
    reap_leaves_nothing(lab)


def records_tell(lab: Lab) -> list[str]:
    """Every run that has left a trace has a record with an end; the outcomes."""
    outcomes = []
    for run_id in lab.run_ids():
        record = lab.record(run_id)
        assert record is not None and record["outcome"], f"{run_id}: {record}"
        assert record["ended_at"] and (record["error"] or record["outcome"] == "succeeded"), record
        outcomes.append(str(record["outcome"]))
    return outcomes


def next_launch_is_accepted(lab: Lab) -> None:
    """The environment is free: the next launch gets it."""
    end = lab.launch().wait()
    assert end.status == 0, end.stderr
