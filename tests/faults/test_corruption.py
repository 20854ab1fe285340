"""State files that are not: everything says what it sees and what to do, and `kill` frees the environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from tools.history import History
from tools.lab import LATER, Lab
from tools.tally import Tally

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.store import StateStore

RUN = "2025-01-15-143022"
MEGABYTES: Final = 10

Spoil = Callable[[dict[str, Any]], bytes]


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


UNREADABLE: Final[dict[str, Spoil]] = {
    "truncated": lambda body: _dump(body)[:200],
    "empty file": lambda body: b"",
    "empty object": lambda body: b"{}",
    "an array": lambda body: b"[]",
    "two documents": lambda body: _dump(body) * 2,
    "wrong types": lambda body: _dump({**body, "timestamps": "now", "pid": "7"}),
    "null fields": lambda body: _dump({**body, "run_id": None, "status": None}),
    "unknown status": lambda body: _dump({**body, "status": "paused"}),
    "a newer schema": lambda body: _dump({**body, "control": {**body["control"], "schema_version": 9}}),
    "no control": lambda body: _dump({name: value for name, value in body.items() if name != "control"}),
    "garbage": lambda body: b"\x00\xff{[" * (MEGABYTES << 18),
    "not a number": lambda body: _dump(body).replace(b'"attempt": 1', b'"attempt": NaN'),
}
READABLE: Final[dict[str, Spoil]] = {
    "unknown fields": lambda body: _dump(
        {**body, "nodes": 4, "control": {**body["control"], "schema_version": 1, "lease": {"until": "later"}}}
    ),
}


def scene(lab: Lab, spoil: Spoil, *, with_machine: bool) -> str | None:
    """A run whose state file has been spoiled; its instance's id."""
    lab.clear()
    instance = lab.machine(RUN) if with_machine else None
    body = lab.claim(RUN, status="training", instance_id=instance or "i-0123456789abcdef0")
    lab.put_state(spoil(body))
    lab.history = History()
    lab.history.begin(spoil(body))
    return instance


@pytest.mark.parametrize("name", UNREADABLE)
def test_watch_and_reap_say_what_they_see(lab: Lab, tally: Tally, name: str) -> None:
    instance = scene(lab, UNREADABLE[name], with_machine=True)
    seen = lab.watch_once()
    assert (seen["exit_code"], seen["word"]) == (ExitCode.STATE_UNREADABLE, "corrupt")
    assert "invoke kill" in seen["detail"] and len(seen["detail"]) < 2000
    code, said = lab.reap(later=LATER)
    assert code == ExitCode.OK and list(lab.instances()) == [instance], (
        "reap ends nothing whose owner is unknown"
    )
    assert "corrupt" in said and "invoke kill" in said and len(said) < 2000
    lab.clear()
    scene(lab, UNREADABLE[name], with_machine=False)
    assert lab.reap(later=LATER)[0] == ExitCode.OK and lab.state() is None
    tally.count("corrupt state file: watch, reap", "said, left; freed once no instance was left")


def test_launch_refuses_and_kill_frees(lab: Lab, tally: Tally, full: bool) -> None:
    for name in UNREADABLE if full else ["truncated"]:
        scene(lab, UNREADABLE[name], with_machine=True)
        refused = lab.launch().wait()
        assert refused.status == ExitCode.STATE_UNREADABLE, (name, refused)
        assert "invoke kill" in refused.stderr and "Traceback" not in refused.stderr
        freed = lab.kill().wait()
        assert freed.status == 0 and "corrupt" in freed.stderr, (name, freed)
        assert lab.instances() == {} and lab.staged() == [], name
        assert lab.store.read_raw() is None, name
        record = lab.record(RUN)
        assert record is not None and record["outcome"] == "killed", name
        tally.count("corrupt state file: launch, kill", "refused, freed")


@pytest.mark.parametrize("name", READABLE)
def test_unknown_fields_are_kept(lab: Lab, tally: Tally, full: bool, name: str) -> None:
    """Fields that this version does not know are carried along by every write."""
    scene(lab, READABLE[name], with_machine=True)
    assert lab.watch_once()["word"] == "training"
    with lab.proxy() as proxy:
        StateStore(lab.s3_by(proxy.url), lab.bucket, "local").transition(RUN, "training", "step_3")
        words = (lab.bucket, "local", RUN, "training", "step_4")
        end = lab.bash('transition_state "$@"', *words, url=proxy.url).wait()
    assert end.status == 0, end
    state = lab.state()
    assert state is not None and state["nodes"] == 4 and state["current_step"] == "step_4"
    assert state["control"]["schema_version"] == 1 and state["control"]["lease"] == {"until": "later"}
    if full:
        assert lab.launch().wait().status == ExitCode.HELD
        assert lab.kill("--now").wait().status == 0 and lab.state() is None
    tally.count("unknown fields", "kept")


def test_the_file_of_another_run(lab: Lab, tally: Tally) -> None:
    """A writer whose run does not hold the environment changes nothing and says so."""
    lab.claim("2025-01-15-150000", instance_id=lab.machine("2025-01-15-150000"))
    before = lab.store.read_raw()
    for line in ('transition_state "$@"', 'delete_state "$1" "$2" "$3"'):
        lab.bash(line, lab.bucket, "local", RUN, "data_sync", "data_sync").wait()
        assert lab.store.read_raw() == before
    end = lab.bash('transition_state "$@"', lab.bucket, "local", RUN, "data_sync", "data_sync").wait()
    assert end.status == ExitCode.NO_SUCH_RUN and "another run" in end.stderr
    tally.count("another run's file", "left alone")
