"""What must hold in every step and every state of the model, whoever acts and whatever gets lost."""

from __future__ import annotations

from collections.abc import Iterable

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.machine import is_allowed
from tools.model_cloud import CLAIM_PATIENCE, DEADLINE_TICKS, ENDED, TICK, Cloud, Machine, State

FORWARD = frozenset({"data_sync", "training", "results_sync"})
OVER = frozenset({"failed", "killed", "cleanup"})


class Violation(Exception):
    """A rule that does not hold."""


def require(holds: bool, rule: str) -> None:
    """Raise `Violation` with the rule unless it holds."""
    if not holds:
        raise Violation(rule)


def check_step(before: Cloud, actor: str, after: Cloud) -> None:
    """The rules about one call's effect."""
    if before.file != after.file:
        _check_file(before, actor, after)
    if before.records != after.records:
        _check_records(before, actor, after)
    if before.machines != after.machines:
        _check_machines(before, actor, after)


def _check_file(before: Cloud, actor: str, after: Cloud) -> None:
    old, new = before.file, after.file
    if new is None:
        assert old is not None
        _check_deletion(before, actor, old)
    elif old is None or old.run != new.run:
        require(new.revision == 1, "what was deleted came back without a new claim")
        require(new.run not in before.claimed, "a run claimed the environment twice")
        require(actor.startswith("launch"), "somebody else than a launch claimed the environment")
        if old is not None:
            require(_is_stale(before, old), "a claim was taken over that was not stale")
            require(not _working(before, old.run), "a claim was taken over while its instance ran")
    else:
        require(new.revision == old.revision + 1, "the revision did not grow by one")
        require(new.writer != old.writer, "two writes of one writer")
        require(is_allowed(old.status, new.status), f"{old.status} became {new.status}")
        require(new.killed or not old.killed, "a kill was forgotten")
        moved = new.status in FORWARD and new.status != old.status
        if moved and new.run not in before.late and _powered(before, new.run):
            require(not _ended(before, new.run), "a run went on whose record has its end")


def _is_stale(cloud: Cloud, held: State) -> bool:
    """Whether a claim's instance has ended, or it has had none for long."""
    powers = {machine.power for machine in cloud.machines if machine.run == held.run}
    return (bool(powers) and powers <= ENDED) or (cloud.now - held.heard) * TICK > CLAIM_PATIENCE


def _check_deletion(before: Cloud, actor: str, old: State) -> None:
    if actor.startswith("launch"):
        record = before.record(old.run)
        require(record is None or record.author == actor, "a launch gave another's claim back")
    elif actor.startswith("kill"):
        require(old.status in OVER, "a kill freed a claim whose run was not told")
    elif actor.startswith("boot"):
        require(_runs(before, int(actor[4:])) == old.run, "an instance gave another run's claim back")
    elif actor.startswith("reap"):
        require(not _working(before, old.run), "reap freed a claim whose instance ran")


def _check_records(before: Cloud, actor: str, after: Cloud) -> None:
    for run, old in before.records:
        new = after.record(run)
        if new is None:
            holds = before.file is not None and before.file.run == run
            instances = any(machine.run == run for machine in before.machines)
            require(not holds and not instances, "the record of a run was deleted")
            require(old.author == actor, "the record of another launch was deleted")
        elif new != old:
            require(new.author == old.author, "two launches had the same run id")
            begun_again = run not in before.claimed and actor == old.author
            kept = old.outcome is None or new.outcome == old.outcome
            require(kept or begun_again, "a recorded end was changed")


def _check_machines(before: Cloud, actor: str, after: Cloud) -> None:
    if len(after.machines) > len(before.machines):
        runs = [machine.run for machine in after.machines if machine.power == "running"]
        require(len(set(runs)) == len(runs), "a run got two instances")
    if actor.startswith("reap"):
        for old, new in zip(before.machines, after.machines, strict=True):
            if old.power != new.power:
                require(not _alive(before, old), "reap ended a live run within its deadline")


def _alive(cloud: Cloud, machine: Machine) -> bool:
    """Whether a machine's run holds the environment, is within its deadline and was never silent too long."""
    held = cloud.file
    return (
        held is not None
        and held.run == machine.run
        and held.instance in (None, machine.number)
        and cloud.now <= held.started + DEADLINE_TICKS
        and machine.run not in cloud.silent | cloud.late
    )


def _ended(cloud: Cloud, run: int) -> bool:
    record = cloud.record(run)
    return record is not None and record.outcome is not None


def _runs(cloud: Cloud, number: int) -> int:
    return cloud.machines[number].run


def _powered(cloud: Cloud, run: int) -> bool:
    return any(machine.run == run and machine.power == "running" for machine in cloud.machines)


def _working(cloud: Cloud, run: int) -> bool:
    """Whether a run's instance runs, was launched in time, and EC2 has had the time to show it."""
    return run not in cloud.late and any(
        machine.run == run and machine.power == "running" and machine.launched < cloud.now
        for machine in cloud.machines
    )


def check_end(cloud: Cloud, actor: str, stage: str, arguments: tuple[object, ...], code: ExitCode) -> None:
    """The rules about what a program says at its end."""
    if actor.startswith("launch") and code == ExitCode.HELD:
        own = [run for run, record in cloud.records if record.author == actor]
        require(cloud.file is None or cloud.file.run not in own, "a refused launch holds the environment")
        require(not any(machine.run in own for machine in cloud.machines), "a refused launch has an instance")
    if stage == "settle" and code == ExitCode.OK:
        held = arguments[1]
        require(
            cloud.file is None or cloud.file.run != held, "a kill said that it had ended a run that holds on"
        )


def check_workers(cloud: Cloud, workers: Iterable[int]) -> None:
    """At most one instance works as the owner's.

    Args:
        workers: numbers of the machines whose program has passed its check of the state and goes on.
    """
    at_work = [number for number in workers if cloud.machines[number].power == "running"]
    require(len(at_work) <= 1, f"instances {at_work} work at once")


def check_quiet(cloud: Cloud) -> None:
    """What is left once everything has ended and `reap` has run late enough."""
    left = [machine.number for machine in cloud.machines if machine.power == "running"]
    require(not left, f"instances {left} are left")
    require(cloud.file is None, "a claim is left")
    for run in cloud.claimed | {run for run, _ in cloud.records}:
        require(_ended(cloud, run), f"run {run} has no record of its end")
