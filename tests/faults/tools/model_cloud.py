"""S3 and EC2 as the protocol's model sees them: one value, and what each call makes of it.

Left out is what cannot matter to who owns what: bodies that are staged and dropped, logs, results. Time goes
in ticks; a machine that is a tick old is shown by EC2, a younger one may or may not be.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

TICK: Final = timedelta(seconds=100)
BEGIN: Final = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)
CLAIM_PATIENCE: Final = timedelta(seconds=250)
STALE_AFTER: Final = timedelta(seconds=350)
DEADLINE_TICKS: Final = 6
LAUNCH_TICKS: Final = 1
"""A launch that gives no sign of life for longer may be taken for dead when its instance comes."""

Nonce = tuple[str, int]
"""A writer and its revision: no writer publishes two bodies of one revision."""


class Word:
    """An answer of its own kind."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


OK: Final = Word("ok")
LOST: Final = Word("answer lost")
FAIL: Final = Word("no answer after all tries")
PRECONDITION: Final = Word("412")
MISSING: Final = Word("404")
REFUSED: Final = Word("refused")
CAPACITY: Final = Word("no capacity")
LATE: Final = Word("not gone in time")


class State(NamedTuple):
    """`system-state.json`; its ETag is all of it, since every body has a nonce of its own."""

    run: int
    writer: Nonce
    started: int
    heard: int
    status: str = "initialization"
    instance: int | None = None
    revision: int = 1
    killed: bool = False


class Record(NamedTuple):
    """`run.json`; its ETag is all of it, `author` the launch that made it."""

    author: str
    started: int
    instance: int | None = None
    outcome: str | None = None


ENDED: Final = frozenset({"terminated", "stillborn"})
"""An instance that EC2 has ended; `stillborn` before it ran anything."""


class Machine(NamedTuple):
    """An instance. `reason` is what the watch for a kill has left on its disk."""

    number: int
    run: int
    launched: int
    token: int = 0
    power: str = "running"
    shown: bool = False
    reason: str = ""


class Cloud(NamedTuple):
    """Everything outside the programs.

    Attributes:
        second: the clock that run ids are made of.
        claimed: every run that has held the environment and was not withdrawn (no program can see this).
        silent: runs that have held it for longer than `STALE_AFTER` without a sign of life (nor this).
        late: runs whose launch was silent for longer than `LAUNCH_TICKS` before its instance (nor this).
    """

    file: State | None = None
    records: tuple[tuple[int, Record], ...] = ()
    reserved: tuple[tuple[int, str], ...] = ()
    machines: tuple[Machine, ...] = ()
    now: int = 0
    second: int = 0
    claimed: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()

    def record(self, run: int) -> Record | None:
        """A run's record."""
        return next((record for owner, record in self.records if owner == run), None)

    def live(self, run: int | None = None) -> tuple[Machine, ...]:
        """What DescribeInstances lists as live, of one run or of all."""
        return tuple(
            machine
            for machine in self.machines
            if machine.power == "running" and machine.shown and run in (None, machine.run)
        )

    def with_machine(self, machine: Machine) -> Cloud:
        """With a machine as it is now."""
        return self._replace(
            machines=tuple(machine if old.number == machine.number else old for old in self.machines)
        )


def moment(tick: int) -> datetime:
    """The time of a tick."""
    return BEGIN + tick * TICK


def watched(cloud: Cloud) -> Cloud:
    """Notes which run has been silent too long, which nobody in the model can see."""
    held = cloud.file
    if held is None:
        return cloud
    silence = cloud.now - held.heard
    if silence > LAUNCH_TICKS and all(machine.run != held.run for machine in cloud.machines):
        cloud = cloud._replace(late=cloud.late | {held.run})
    if silence * TICK > STALE_AFTER:
        cloud = cloud._replace(silent=cloud.silent | {held.run})
    return cloud


def ticked(cloud: Cloud) -> Cloud:
    """A tick later: EC2 shows what is a tick old."""
    machines = tuple(machine._replace(shown=True) for machine in cloud.machines)
    return watched(cloud._replace(now=cloud.now + 1, machines=machines))


Effect = Callable[..., tuple[Cloud, Any]]


def get_state(cloud: Cloud) -> tuple[Cloud, Any]:
    """GetObject."""
    return cloud, cloud.file


def publish(cloud: Cloud, body: State, expected: State | None, condition: bool = True) -> tuple[Cloud, Any]:
    """CopyObject with If-None-Match:* or If-Match; without `condition` a plain write: mutants only."""
    file = cloud.file
    if condition and expected is None and file is not None:
        return cloud, PRECONDITION
    if condition and expected is not None and file is None:
        return cloud, MISSING
    if condition and expected is not None and file is not None and file != expected:
        return cloud, PRECONDITION
    cloud = cloud._replace(file=body, claimed=cloud.claimed | {body.run})
    return watched(cloud) if body.revision == 1 else cloud, OK


def drop_state(cloud: Cloud, expected: State | None) -> tuple[Cloud, Any]:
    """DeleteObject with If-Match; without an ETag a plain one: mutants only."""
    if cloud.file is None:
        return cloud, MISSING
    if expected is not None and cloud.file != expected:
        return cloud, PRECONDITION
    return cloud._replace(file=None), OK


def get_record(cloud: Cloud, run: int) -> tuple[Cloud, Any]:
    """GetObject of run.json."""
    return cloud, cloud.record(run)


def put_record(cloud: Cloud, run: int, record: Record, expected: Record | None) -> tuple[Cloud, Any]:
    """PutObject of run.json, over an ETag or over whatever is there."""
    old = cloud.record(run)
    if expected is not None and old != expected:
        return cloud, MISSING if old is None else PRECONDITION
    others = [pair for pair in cloud.records if pair[0] != run]
    return cloud._replace(records=tuple(sorted([*others, (run, record)]))), OK


def create_record(cloud: Cloud, run: int, record: Record) -> tuple[Cloud, Any]:
    """PutObject of run.json with If-None-Match:*."""
    return put_record(cloud, run, record, None) if cloud.record(run) is None else (cloud, PRECONDITION)


def drop_record(cloud: Cloud, run: int) -> tuple[Cloud, Any]:
    """DeleteObject of run.json: the launch says that it was no run."""
    records = tuple(pair for pair in cloud.records if pair[0] != run)
    return cloud._replace(records=records, claimed=cloud.claimed - {run}), OK


def reserve(cloud: Cloud, run: int, nonce: str) -> tuple[Cloud, Any]:
    """PutObject of phase_logs.json with If-None-Match:*."""
    if any(taken == run for taken, _ in cloud.reserved):
        return cloud, PRECONDITION
    return cloud._replace(reserved=tuple(sorted([*cloud.reserved, (run, nonce)]))), OK


def get_reserved(cloud: Cloud, run: int) -> tuple[Cloud, Any]:
    """GetObject of phase_logs.json: whose it is."""
    return cloud, next((nonce for taken, nonce in cloud.reserved if taken == run), None)


def drop_reserved(cloud: Cloud, run: int) -> tuple[Cloud, Any]:
    """DeleteObject of phase_logs.json."""
    return cloud._replace(reserved=tuple(pair for pair in cloud.reserved if pair[0] != run)), OK


def run_instances(cloud: Cloud, run: int, token: int, known: bool = True) -> tuple[Cloud, Any]:
    """RunInstances: the same token, the same instance; without `known` a new one each time: mutants only."""
    same = next((item for item in cloud.machines if (item.run, item.token) == (run, token)), None)
    if known and same is not None:
        return cloud, same.number
    if cloud.file is None or cloud.file.run != run:
        cloud = cloud._replace(late=cloud.late | {run})
    machine = Machine(len(cloud.machines), run, cloud.now, token)
    return cloud._replace(machines=(*cloud.machines, machine)), machine.number


def terminate(cloud: Cloud, numbers: tuple[int, ...]) -> tuple[Cloud, Any]:
    """TerminateInstances: all or none; EC2 may not know a young instance yet."""
    wanted = [machine for machine in cloud.machines if machine.number in numbers]
    if not all(machine.shown for machine in wanted):
        return cloud, MISSING
    for machine in wanted:
        if machine.power == "running":
            cloud = cloud.with_machine(machine._replace(power="shutting"))
    return cloud, OK


def find(cloud: Cloud, run: int, token: int) -> tuple[Cloud, Any]:
    """DescribeInstances by client token: the instance's number, or None."""
    shown = (item for item in cloud.machines if item.shown and (item.run, item.token) == (run, token))
    return cloud, next((machine.number for machine in shown), None)


def list_live(cloud: Cloud, run: int | None = None) -> tuple[Cloud, Any]:
    """DescribeInstances by tags, live states only."""
    return cloud, cloud.live(run)


def describe(cloud: Cloud, number: int) -> tuple[Cloud, Any]:
    """DescribeInstances by id: its power, or 404."""
    machine = cloud.machines[number]
    return cloud, machine.power if machine.shown else MISSING


def list_runs(cloud: Cloud) -> tuple[Cloud, Any]:
    """ListObjectsV2: the runs that have a folder."""
    return cloud, tuple(run for run, _ in cloud.records)


def now(cloud: Cloud) -> tuple[Cloud, Any]:
    """The wall clock."""
    return cloud, cloud.now


def signal(cloud: Cloud, number: int, reason: str) -> tuple[Cloud, Any]:
    """The watch for a kill writes why and sends TERM to the bootstrap."""
    return cloud.with_machine(cloud.machines[number]._replace(reason=reason)), OK


def reason(cloud: Cloud, number: int) -> tuple[Cloud, Any]:
    """The bootstrap looks whether the watch has left a reason."""
    return cloud, cloud.machines[number].reason


def power_off(cloud: Cloud, number: int) -> tuple[Cloud, Any]:
    """The machine's own `shutdown`."""
    machine = cloud.machines[number]
    return cloud.with_machine(machine._replace(power="shutting")) if machine.power == "running" else cloud, OK


READS: Final[dict[str, Effect]] = {
    effect.__name__: effect
    for effect in (get_state, get_record, get_reserved, find, list_live, describe, list_runs)
}
WRITES: Final[dict[str, Effect]] = {
    effect.__name__: effect
    for effect in (
        *(publish, drop_state, create_record, put_record, drop_record),
        *(reserve, drop_reserved, run_instances, terminate),
    )
}
LOCAL: Final[dict[str, Effect]] = {effect.__name__: effect for effect in (now, signal, reason, power_off)}
