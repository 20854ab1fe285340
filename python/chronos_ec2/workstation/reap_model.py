"""What `invoke reap` sees of an environment, and what it may do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from chronos_ec2.workstation.outcome import Fate
from chronos_ec2.workstation.outside_switch import Switch

Kind = Literal["terminate", "free", "arm", "disarm", "delete", "cancel", "drop", "leave"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A live instance with the project's tags.

    Attributes:
        deadline: when it is due, as its own tag says.
        instance_type, market: what it costs by.
        node: its number in the run, from 0.
    """

    instance_id: str
    run_id: str | None
    launched_at: datetime
    deadline: datetime | None = None
    instance_type: str | None = None
    market: str = "on-demand"
    node: int = 0


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk with the project's tags that no instance uses; `gb` is its size in GB."""

    volume_id: str
    run_id: str | None
    created_at: datetime
    gb: int


@dataclass(frozen=True, slots=True)
class SpotRequest:
    """A spot request with the project's tags that is open or active."""

    request_id: str
    run_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Holding:
    """The state file as it was found.

    Attributes:
        body: what it says, None when it is corrupt.
        etag: what a deletion must match.
        problem: why it is corrupt.
        fate: what EC2 says of the holder's instance; None for a corrupt file.
    """

    body: Mapping[str, Any] | None
    etag: str
    problem: str | None = None
    fate: Fate | None = None

    @property
    def run_id(self) -> str | None:
        """The holder, if the file says."""
        return None if self.body is None else str(self.body["run_id"])


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is in one environment.

    Attributes:
        staged: keys of bodies that writers staged, with the time they were written.
        blind: why S3 could not be asked, so that nobody knows who holds the environment.
        unseen: what else could not be listed, and why.
        switches: the outside switches of the environment; None when the stack has none, or they could not be
            listed.
        wants_switch: whether the holder's record asks for an outside switch.
    """

    environment: str
    now: datetime
    holding: Holding | None
    machines: Sequence[Machine]
    staged: Sequence[tuple[str, datetime]]
    blind: str | None = None
    unseen: Sequence[tuple[str, str]] = ()
    switches: Sequence[Switch] | None = None
    wants_switch: bool = False
    volumes: Sequence[Volume] = ()
    spot_requests: Sequence[SpotRequest] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do.

    Attributes:
        kind: `terminate` an instance, `free` the environment, `arm` or `disarm` an outside switch, `delete` a
            volume, `cancel` a spot request, `drop` a staged body, or `leave` and say why.
        what: the id, the name or the key of it.
        why: the reason, for a person and for the record.
        run_id: whose it is; whose record gets its end.
    """

    kind: Kind
    what: str
    why: str
    run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.kind:<9} {self.what}: {self.why}"
