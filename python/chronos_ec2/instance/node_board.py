"""What the nodes of a run tell each other: one small object each, under the run's prefix in S3.

    {env}/{run_id}/nodes/{reservation}/{rank}.json       written again at every beat
    {env}/{run_id}/nodes/{reservation}/{rank}.end.json   why it has ended, or is about to

The reservation is EC2's name for the launch: what machines of an earlier attempt have left is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

_NAME: Final = re.compile(r"(\d{1,2})(\.end)?\.json")
_TAG: Final = "chronos-class=log"


@dataclass(frozen=True, slots=True)
class Node:
    """What a node says of itself.

    Attributes:
        rank: its number.
        instance_id: its machine.
        address, port: where it can be met; the port is the first node's choice.
    """

    rank: int
    instance_id: str
    address: str
    port: int = 0

    @property
    def words(self) -> str:
        """The node for a person."""
        return f"node {self.rank} ({self.instance_id})"


@dataclass(frozen=True, slots=True)
class Glance:
    """What is on the board: an ETag for each node that has come, and the ranks of those that have ended."""

    beats: Mapping[int, str]
    ended: frozenset[int]


class Board:
    """The board of one launch.

    Args:
        client: a boto3 S3 client.
        bucket, prefix: where it is; the prefix ends in `/`.
    """

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    def post(self, node: Node, beat: int) -> None:
        """Say that a node is there."""
        body = json.dumps({**asdict(node), "beat": beat}).encode()
        self._client.put_object(
            Bucket=self._bucket,
            Key=f"{self._prefix}{node.rank}.json",
            Body=body,
            ContentType="application/json",
            Tagging=_TAG,
        )

    def glance(self) -> Glance:
        """Who is there, and who has ended."""
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix)
        beats: dict[int, str] = {}
        ended: set[int] = set()
        for item in answer.get("Contents", []):
            found = _NAME.fullmatch(item["Key"].removeprefix(self._prefix))
            if found is None:
                continue
            if found[2]:
                ended.add(int(found[1]))
            else:
                beats[int(found[1])] = item["ETag"]
        return Glance(beats, frozenset(ended))

    def node(self, rank: int) -> Node:
        """What a node that has come says of itself."""
        body = self._read(f"{rank}.json")
        return Node(rank, str(body["instance_id"]), str(body["address"]), int(body["port"]))

    def end(self, rank: int) -> dict[str, Any]:
        """Why a node has ended: `reason` (done, failed or interrupted), `error` and `notice`."""
        return self._read(f"{rank}.end.json")

    def _read(self, name: str) -> dict[str, Any]:
        answer = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{name}")
        body: dict[str, Any] = json.loads(answer["Body"].read())
        return body
