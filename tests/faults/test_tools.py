"""The tools themselves: what they stand in for behaves the same, and what they check can fail."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from tools.fault_proxy import Request
from tools.history import History
from tools.lab import ENVIRONMENT, STATE_KEY, Lab
from tools.naming import Operation
from tools.proof_page import page
from tools.scenes import state_body

from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation.settings import REPOSITORY

RUN = "2025-01-15-143022"


@pytest.mark.parametrize(
    "words",
    [
        ["s3api", "head-bucket", "--bucket", "no-such-bucket"],
        ["s3api", "list-objects-v2", "--bucket", "chronos-faults", "--prefix", "cached-datasets/python-env/"],
        ["ec2", "run-instances", "--no-such-option"],
    ],
)
def test_the_fast_aws_says_what_aws_says(lab: Lab, words: list[str]) -> None:
    def run(program: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [program, *words], env=lab.variables(), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    assert run(str(lab.programs.bin / "aws")) == run(str(REPOSITORY / ".venv" / "bin" / "aws"))


def test_a_call_dies_with_its_caller(lab: Lab) -> None:
    with lab.proxy() as proxy:
        proxy.hold(lambda request: True)
        running = lab.start(["aws", "s3", "ls", "s3://chronos-faults"], proxy.url)
        held = proxy.wait_held(20)
        assert held is not None and callers_of(proxy.url)
        running.kill()
        running.wait()
        end = time.monotonic() + 5
        while callers_of(proxy.url) and time.monotonic() < end:
            time.sleep(0.02)
        assert callers_of(proxy.url) == []
        held.drop()


def callers_of(url: str) -> list[str]:
    """Established connections to a proxy's port, as the kernel lists those of its callers."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[2].endswith(port) and row[3] == "01"]


def state(revision: int, writer: str, status: str = "training") -> bytes:
    """A state of the run."""
    body = state_body("a-bucket", ENVIRONMENT, RUN, status, None, utc_now())
    return json.dumps(body | {"control": body["control"] | {"revision": revision, "writer": writer}}).encode()


def write(history: History, body: bytes, **condition: str) -> None:
    """Publish a state, as a proxy would see it."""
    staged, key = f"/a-bucket/{STATE_KEY}.tmp-1", f"/a-bucket/{STATE_KEY}"
    copy = {"x-amz-copy-source": staged, **{name.replace("_", "-"): text for name, text in condition.items()}}
    history.see(Request(1, Operation("PutObject", "staged"), "PUT", staged, {}, body), 200)
    history.see(Request(2, Operation("CopyObject", "state"), "PUT", key, copy, b""), 200)


def etag_of(history: History) -> str:
    """The ETag of what was written last."""
    return history.writes[-1][1]


def test_a_history_with_two_winners_is_refused() -> None:
    history = History()
    write(history, state(1, "a"), if_none_match="*")
    first = etag_of(history)
    write(history, state(2, "b"), if_match=first)
    assert history.check() == 2
    write(history, state(2, "c"), if_match=first)
    with pytest.raises(AssertionError, match="twice"):
        history.check()


def test_a_history_with_an_overwrite_is_refused() -> None:
    history = History()
    write(history, state(1, "a"), if_none_match="*")
    write(history, state(2, "b"))
    with pytest.raises(AssertionError, match="without a condition"):
        history.check()


@pytest.mark.parametrize(("revision", "status"), [(3, "training"), (2, "initialization"), (2, "cleanup")])
def test_a_history_with_an_illegal_step_is_refused(revision: int, status: str) -> None:
    history = History()
    write(history, state(1, "a"), if_none_match="*")
    write(history, state(revision, "b", status), if_match=etag_of(history))
    with pytest.raises(AssertionError):
        history.check()


def test_the_page_keeps_what_was_not_proven_anew() -> None:
    reboot = {"training": "lost", "results_sync": "lost"}
    first = page("", {"a": (2, "2 lost")}, {"reboot": reboot}, "test_a.py, seed 1", "2025-01-15")
    anew = {"results_sync": "lost", "cleanup": "failed"}
    second = page(first, {"b": (1, "1 held")}, {"reboot": anew}, "test_b.py, seed 2", "2025-02-01")
    lines = second.splitlines()
    assert "| a | 2 | 2 lost | test_a.py, seed 1 |" in lines
    assert "| b | 1 | 1 held | test_b.py, seed 2 |" in lines
    cells = "lost (2025-01-15) | lost (2025-02-01) | failed (2025-02-01)"
    assert f"| reboot | - | - | - | - | - | {cells} | test_b.py, seed 2 |" in lines
    assert page(second, {}, {}, "nobody", "2025-03-01") == second
