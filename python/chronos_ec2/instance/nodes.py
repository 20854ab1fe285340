"""The nodes of a run: they meet before they train, and watch over each other while they do.

usage: python -m chronos_ec2.instance.nodes meet  --bucket B --prefix P --nodes N --rank K --into FILE
                                                  --instance-id I --address IP --patience SECONDS
                                                  --report FILE
       python -m chronos_ec2.instance.nodes watch --bucket B --prefix P --nodes N --rank K --met FILE
                                                  --interval SECONDS --report FILE --reason-file FILE
                                                  --notice-file FILE --pid PID
       python -m chronos_ec2.instance.nodes look  (as watch, with --patience SECONDS in place of --pid)

`meet` waits until all nodes have come and writes who they are to --into. `watch` says at every interval that
this node lives; when another one has ended or falls silent it writes who and why to --report, and the reason
in a word to --reason-file, and sends SIGTERM to --pid. `look` does the same once, for a training that has
failed: it also asks EC2.

Exit: 0 met, or `watch` and `look` have found a lost node; 1 not all have come, or nobody is lost; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.node_board import Board, Node
from chronos_ec2.instance.place import free_port
from chronos_ec2.instance.storage import make_client

POLL_SECONDS: Final = 2.0
BEATS_TO_SILENCE: Final = 8
LEAST_SILENCE_SECONDS: Final = 60.0
_ALIVE: Final = ("pending", "running")

Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Lost:
    """A node without which the run cannot go on.

    Attributes:
        rank: its number.
        reason: `failed` and `interrupted` it has said itself; `silent`: it says nothing any more; `gone`:
            EC2 says so.
        words: the same for a person.
        notice: EC2's notice to a spot machine, if that was why.
    """

    rank: int
    reason: str
    words: str
    notice: Mapping[str, Any] | None = None


def lost_by_own_word(board: Board, rank: int, name: str) -> Lost | None:
    """What a node's end means for the others; None when its work was done."""
    end = board.end(rank)
    if end.get("reason") == "done":
        return None
    reason = "interrupted" if end.get("reason") == "interrupted" else "failed"
    words = f"{name} has ended: {end.get('error') or reason}"
    return Lost(rank, reason, words, end.get("notice"))


def meet(
    board: Board,
    own: Node,
    nodes: int,
    *,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = time.sleep,
) -> list[Node] | Lost:
    """Come to the board and wait until all have.

    Args:
        own: this node.
        nodes: how many are expected.
        patience: seconds to wait for the others.

    Returns:
        All nodes by rank, or the one because of which they will not train.
    """
    until = clock() + patience
    board.post(own, 0)
    while True:
        seen = board.glance()
        for rank in sorted(seen.ended - {own.rank}):
            if lost := lost_by_own_word(board, rank, f"node {rank}"):
                return lost
        if seen.beats.keys() >= set(range(nodes)):
            return [board.node(rank) for rank in range(nodes)]
        if clock() >= until:
            missing = sorted(set(range(nodes)) - seen.beats.keys())
            names = " and ".join(f"node {rank}" for rank in missing)
            return Lost(missing[0], "silent", f"{names} did not come within {patience:.0f} s")
        sleep(POLL_SECONDS)


class Watch:
    """Looks after the others; each `look` is one round.

    Args:
        others: the nodes to look at.
        silence: seconds without a beat after which a node counts as lost.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        board: Board,
        others: Iterable[Node],
        *,
        silence: float,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._others = {node.rank: node for node in others}
        self._silence, self._interval, self._clock = silence, interval, clock
        self._heard: dict[int, str] = {}
        self._quiet = dict.fromkeys(self._others, 0.0)
        self._looked_at: float | None = None

    def look(self) -> Lost | None:
        """The first node that is lost, or None. One whose work is done is not looked at any more."""
        seen = self._board.glance()
        now = self._clock()
        # A round that came late, or failed, is this node's own trouble: it is no proof of so long a silence.
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 2 * self._interval)
        self._looked_at = now
        for rank, node in list(self._others.items()):
            if rank in seen.ended:
                if lost := lost_by_own_word(self._board, rank, node.words):
                    return lost
                del self._others[rank]
                continue
            beat = seen.beats.get(rank, "")
            self._quiet[rank] = 0.0 if beat != self._heard.get(rank) else self._quiet[rank] + passed
            self._heard[rank] = beat
            if self._quiet[rank] >= self._silence:
                words = f"{node.words} has given no sign of life for {self._quiet[rank]:.0f} s"
                return Lost(rank, "silent", words)
        return None


def gone_by_ec2(ec2: Any, others: Iterable[Node]) -> Lost | None:
    """A node of which EC2 says that it does not run any more."""
    by_id = {node.instance_id: node for node in others}
    pages = ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": list(by_id)}])
    for group in pages["Reservations"]:
        for item in group["Instances"]:
            state, node = item["State"]["Name"], by_id[item["InstanceId"]]
            if state not in _ALIVE:
                return Lost(node.rank, "gone", f"{node.words} is gone: EC2 says {state}")
    return None


def look_once(
    board: Board,
    ec2: Any,
    others: Sequence[Node],
    *,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = time.sleep,
) -> Lost | None:
    """Look for the node because of which a training has failed here, for so many seconds.

    A machine that ends needs a moment to say so, and EC2 one to show it. What a node says of itself may be
    the echo of this one's own failure: what EC2 says comes first.
    """
    until = clock() + patience
    while True:
        said: Lost | None = None
        try:
            if gone := gone_by_ec2(ec2, others):
                return gone
            watch = Watch(board, others, silence=float("inf"), interval=1.0, clock=clock)
            said = watch.look()
        except (ClientError, BotoCoreError) as error:
            _say(f"the other nodes cannot be seen: {error}")
        if said is not None or clock() >= until:
            return said
        sleep(POLL_SECONDS)


def report_lost(lost: Lost, report: Path, reason: Path | None, notice: Path | None) -> None:
    """Leave what was found where bootstrap.sh looks for it; a reason that is there already stays."""
    _say(lost.words)
    report.write_text(json.dumps(asdict(lost)))
    if notice is not None and lost.notice is not None and not notice.exists():
        notice.write_text(json.dumps(lost.notice))
    if reason is not None and not (reason.exists() and reason.stat().st_size):
        reason.write_text("interrupted\n" if lost.reason == "interrupted" else "node\n")


def _say(text: str) -> None:
    print(f"nodes: {text}", file=sys.stderr, flush=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("meet", "watch", "look"))
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True, help="ENV/RUN_ID/nodes/RESERVATION/")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True, help="who is lost, and why")
    parser.add_argument("--into", type=Path, help="meet: who has come")
    parser.add_argument("--met", type=Path, help="watch, look: what meet has written")
    parser.add_argument("--instance-id", default="")
    parser.add_argument("--address", default="")
    parser.add_argument("--patience", type=float, default=900.0)
    parser.add_argument("--interval", type=float, default=15.0)
    parser.add_argument("--reason-file", type=Path)
    parser.add_argument("--notice-file", type=Path)
    parser.add_argument("--pid", type=int, default=0)
    given = parser.parse_args(argv)
    needed = (given.into,) if given.what == "meet" else (given.met, given.reason_file)
    if None in needed:
        parser.error("meet needs --into; watch and look need --met and --reason-file")
    return given


def _meet(given: argparse.Namespace) -> int:
    board = Board(make_client(), given.bucket, given.prefix)
    port = free_port() if given.rank == 0 else 0
    found = meet(
        board,
        Node(given.rank, given.instance_id, given.address, port),
        given.nodes,
        patience=given.patience,
    )
    if isinstance(found, Lost):
        report_lost(found, given.report, None, None)
        return 1
    given.into.write_text(json.dumps([asdict(node) for node in found]))
    return 0


def _met(given: argparse.Namespace) -> tuple[Node, list[Node]]:
    nodes = [Node(**item) for item in json.loads(given.met.read_text())]
    return nodes[given.rank], [node for node in nodes if node.rank != given.rank]


def _watch(given: argparse.Namespace, sleep: Sleep = time.sleep) -> int:
    board = Board(make_client(impatient=True), given.bucket, given.prefix)
    own, others = _met(given)
    silence = max(LEAST_SILENCE_SECONDS, BEATS_TO_SILENCE * given.interval)
    watch = Watch(board, others, silence=silence, interval=given.interval)
    beat = 0
    while True:
        beat += 1
        try:
            board.post(own, beat)
            lost = watch.look()
        except (ClientError, BotoCoreError) as error:
            _say(f"S3 does not answer, next try in {given.interval:g} s: {error}")
            lost = None
        if lost is not None:
            report_lost(lost, given.report, given.reason_file, given.notice_file)
            os.kill(given.pid, signal.SIGTERM)
            return 0
        sleep(given.interval)


def _look(given: argparse.Namespace) -> int:
    import boto3

    _, others = _met(given)
    board = Board(make_client(impatient=True), given.bucket, given.prefix)
    lost = look_once(board, boto3.client("ec2"), others, patience=given.patience)
    if lost is None:
        return 1
    report_lost(lost, given.report, given.reason_file, given.notice_file)
    return 0


def main(argv: Sequence[str]) -> int:
    """Do what `argv` describes and return the exit status."""
    given = _parse(argv)
    work = {"meet": _meet, "watch": _watch, "look": _look}[given.what]
    try:
        return work(given)
    except (ChronosError, ClientError, BotoCoreError, OSError) as error:
        _say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
