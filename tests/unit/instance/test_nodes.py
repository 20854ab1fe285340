"""The nodes of a run: how they meet, and how the loss of one is noticed; against moto's S3 and EC2."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from moto import mock_aws

from chronos_ec2.instance import nodes
from chronos_ec2.instance.node_board import Board, Node
from chronos_ec2.instance.nodes import Lost, Watch, look_once, meet, report_lost

PREFIX = "dev/2025-01-15-143022/nodes/r-1/"


class Clock:
    """A clock that `sleep` moves; what shall happen meanwhile is done then."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self.now = 0.0
        self._happenings = list(happenings)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._happenings:
            self._happenings.pop(0)()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="a-bucket")
        yield client


@pytest.fixture
def board(s3: Any) -> Board:
    return Board(s3, "a-bucket", PREFIX)


def node(rank: int) -> Node:
    return Node(rank, f"i-{rank}", f"10.20.0.{rank + 5}", 4000 if rank == 0 else 0)


def end(s3: Any, rank: int, reason: str, error: str | None = None, notice: Any = None) -> None:
    """What `post_end` of nodes.sh writes."""
    body = {"reason": reason, "error": error, "instance_id": f"i-{rank}", "notice": notice}
    s3.put_object(Bucket="a-bucket", Key=f"{PREFIX}{rank}.end.json", Body=json.dumps(body))


def test_nodes_that_have_all_come_know_each_other(board: Board) -> None:
    clock = Clock(lambda: board.post(node(2), 0), lambda: board.post(node(1), 0))
    found = meet(board, node(0), 3, patience=60, clock=clock, sleep=clock.sleep)
    assert found == [node(0), node(1), node(2)]


def test_a_node_that_does_not_come_is_named_after_the_patience(board: Board) -> None:
    clock = Clock()
    board.post(node(1), 0)
    found = meet(board, node(0), 4, patience=60, clock=clock, sleep=clock.sleep)
    assert found == Lost(2, "silent", "node 2 and node 3 did not come within 60 s")
    assert 60 <= clock.now < 65


def test_who_waits_learns_at_once_that_another_has_failed(board: Board, s3: Any) -> None:
    clock = Clock(lambda: end(s3, 1, "failed", "preflight: cuda: no GPU"))
    found = meet(board, node(0), 2, patience=60, clock=clock, sleep=clock.sleep)
    assert found == Lost(1, "failed", "node 1 has ended: preflight: cuda: no GPU")
    assert clock.now < 5


def test_what_an_earlier_launch_has_left_is_not_read(board: Board, s3: Any) -> None:
    Board(s3, "a-bucket", PREFIX.replace("r-1", "r-0")).post(node(1), 0)
    clock = Clock()
    assert isinstance(meet(board, node(0), 2, patience=10, clock=clock, sleep=clock.sleep), Lost)


@pytest.fixture
def watched(board: Board) -> tuple[Watch, Clock]:
    clock = Clock()
    board.post(node(1), 0)
    return Watch(board, [node(1)], silence=60, interval=10, clock=clock), clock


def test_a_node_that_beats_is_not_lost(watched: tuple[Watch, Clock], board: Board) -> None:
    watch, clock = watched
    for beat in range(30):
        board.post(node(1), beat)
        assert watch.look() is None
        clock.now += 10


def test_a_node_that_falls_silent_is_lost_within_the_bound(watched: tuple[Watch, Clock]) -> None:
    watch, clock = watched
    found = None
    while found is None and clock.now < 1000:
        found = watch.look()
        clock.now += 10
    assert found == Lost(1, "silent", "node 1 (i-1) has given no sign of life for 60 s")
    assert clock.now <= 90


def test_this_nodes_own_trouble_proves_nothing_of_the_others(
    watched: tuple[Watch, Clock], board: Board
) -> None:
    watch, clock = watched
    assert watch.look() is None
    clock.now += 3600  # S3 did not answer, or this machine stood still
    assert watch.look() is None
    board.post(node(1), 7)
    assert watch.look() is None


def test_a_node_that_is_done_is_not_missed(watched: tuple[Watch, Clock], s3: Any) -> None:
    watch, clock = watched
    end(s3, 1, "done")
    for _ in range(30):
        assert watch.look() is None
        clock.now += 10


@pytest.mark.parametrize("reason", ["failed", "killed", "interrupted"])
def test_a_node_that_says_that_it_ends_is_lost_at_once(
    reason: str, watched: tuple[Watch, Clock], s3: Any
) -> None:
    notice = {"action": "terminate", "time": "2025-01-15T15:00:00Z"} if reason == "interrupted" else None
    end(s3, 1, reason, "out of luck", notice)
    lost = watched[0].look()
    wanted = "interrupted" if reason == "interrupted" else "failed"
    assert lost == Lost(1, wanted, "node 1 (i-1) has ended: out of luck", notice)


class Ec2:
    """DescribeInstances, with the states that instances are to have."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    def describe_instances(self, **wanted: Any) -> dict[str, Any]:
        (found,) = wanted["Filters"]
        assert found["Name"] == "instance-id"
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state == "unreachable":
            raise EndpointConnectionError(endpoint_url="http://ec2")
        return {"Reservations": [{"Instances": [{"InstanceId": "i-1", "State": {"Name": state}}]}]}


def test_what_ec2_says_comes_before_what_a_node_says(board: Board, s3: Any) -> None:
    end(s3, 1, "failed", "connection reset by peer")
    found = look_once(board, Ec2("shutting-down"), [node(1)], patience=30)
    assert found == Lost(1, "gone", "node 1 (i-1) is gone: EC2 says shutting-down")


def test_ec2_may_need_a_while_to_show_it(board: Board) -> None:
    clock = Clock()
    ec2 = Ec2("running", "unreachable", "terminated")
    found = look_once(board, ec2, [node(1)], patience=30, clock=clock, sleep=clock.sleep)
    assert found is not None and found.reason == "gone"


def test_a_failure_that_is_nobody_elses_is_told_so_after_the_patience(board: Board) -> None:
    clock = Clock()
    assert look_once(board, Ec2("running"), [node(1)], patience=30, clock=clock, sleep=clock.sleep) is None
    assert 30 <= clock.now < 35


def test_a_reason_that_is_there_already_stays(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("report", "reason", "notice")]
    files[1].write_text("killed\n")
    report_lost(Lost(1, "interrupted", "words", {"time": "t"}), *files)
    assert json.loads(files[0].read_text())["rank"] == 1
    assert files[1].read_text() == "killed\n"
    assert json.loads(files[2].read_text()) == {"time": "t"}


def test_the_watch_beats_and_ends_the_bootstrap_when_a_node_is_lost(
    board: Board, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, report, reason = (tmp_path / name for name in ("met", "report", "reason"))
    met.write_text(
        json.dumps([{"rank": rank, "instance_id": f"i-{rank}", "address": "a", "port": 0} for rank in (0, 1)])
    )
    board.post(node(1), 0)
    end(s3, 1, "failed", "disk full")
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(nodes, "make_client", lambda **_: s3)
    words = ["--bucket", "a-bucket", "--prefix", PREFIX, "--nodes", "2", "--rank", "0"]
    words += [
        "--report",
        str(report),
        "--met",
        str(met),
        "--reason-file",
        str(reason),
        "--interval",
        "1",
        "--pid",
        "77",
    ]
    assert nodes.main(["watch", *words]) == 0
    assert sent == [(77, signal.SIGTERM)]
    assert reason.read_text() == "node\n"
    assert "disk full" in json.loads(report.read_text())["words"]
    assert board.glance().beats.keys() == {0, 1}
