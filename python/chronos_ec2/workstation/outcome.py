"""Runs without an end: what EC2 says about their machines, and the record completed from that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.report.way_on import DEADLINE_WORDS
from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.state.stored_checkpoints import list_stored
from chronos_ec2.workstation.run_cost import no_later, with_cost
from chronos_ec2.workstation.s3 import decode_object, error_code, get_bytes, put_json, translate

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

# EC2 shows a new instance to DescribeInstances a little after RunInstances has answered.
LAUNCH_GRACE: Final = timedelta(seconds=120)
WRITE_ATTEMPTS: Final = 4
_NOT_FOUND: Final = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
REASONS: Final[Mapping[str, str]] = {
    "Client.InstanceInitiatedShutdown": "the machine shut itself down",
    "Client.InstanceTerminated": "the machine was restarted and terminated at once",
    "Client.InternalError": "the machine could not start; often its encrypted disk's key may not be used",
    "Client.InvalidSnapshot.NotFound": "the image's snapshot was not found",
    "Client.UserInitiatedHibernate": "someone hibernated the machine",
    "Client.UserInitiatedShutdown": "an API call ended it: its own cleanup, invoke kill, deadline or console",
    "Client.VolumeLimitExceeded": "the account's limit of EBS volumes or of their size was reached",
    "Server.InsufficientInstanceCapacity": "AWS had no capacity for this instance type there",
    "Server.InternalError": "an error inside AWS stopped the machine",
    "Server.ScheduledStop": "AWS retired the machine on a schedule",
    "Server.SpotInstanceShutdown": "AWS stopped the spot machine",
    "Server.SpotInstanceTermination": "AWS took the spot machine back",
}
_TAKEN_BACK: Final = frozenset({"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"})
_MOMENT: Final = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


@dataclass(frozen=True, slots=True)
class Fate:
    """What EC2 says about a run's machines.

    Attributes:
        state: `gone` is proof (terminated, or never created); `unknown` proves nothing.
        words: the same for a person.
        ended_at: when the last machine ended, if EC2 says.
        instance_ids: the machines that were found.
        taken_back: whether EC2 took a spot machine back.
        ended_ids: those that are terminated.
    """

    state: Literal["running", "gone", "unknown"]
    words: str
    ended_at: datetime | None = None
    instance_ids: tuple[str, ...] = ()
    taken_back: bool = False
    ended_ids: tuple[str, ...] = ()


def nodes_of(state: Mapping[str, Any] | None, record: Mapping[str, Any] | None = None) -> int:
    """How many machines a run has, by its state file or its run.json.

    Args:
        state: the state file of this run, if there is one.
        record: its run.json, as far as it can be read.
    """
    config = (record or {}).get("config")
    said = (state or {}).get("control", {}).get("nodes") or (
        config.get("nodes") if isinstance(config, Mapping) else None
    )
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 1 else 1


def instance_fate(
    ec2: EC2Client,
    environment: str,
    run_id: str,
    instance_id: str | None,
    *,
    nodes: int = 1,
    started_at: datetime | None = None,
    now: Callable[[], datetime] = utc_now,
) -> Fate:
    """Ask EC2 what became of a run: by instance id, or by tags when no id is known, or when there are more.

    Args:
        nodes: how many machines the run has; it is gone when all of them are.
        started_at: when the run began; a machine that cannot be found is not proof before it had the
            time to show up.

    Returns:
        A fate; a call that fails is the fate `unknown`, never an error.
    """
    try:
        found = _describe(ec2, environment, run_id, instance_id if nodes == 1 else None)
    except (ClientError, BotoCoreError) as error:
        return Fate("unknown", f"EC2 could not be asked: {translate(error, 'EC2')}")
    if not found:
        named = (
            f"instance {instance_id}"
            if instance_id and nodes == 1
            else f"an instance with the tag RunId={run_id}"
        )
        if started_at is not None and now() - started_at < LAUNCH_GRACE:
            return Fate("unknown", f"EC2 does not know {named} yet")
        return Fate("gone", f"EC2 does not know {named}: it was never created, or it ended over an hour ago")
    ids = tuple(instance["InstanceId"] for instance in found)
    alive = [instance for instance in found if instance["State"]["Name"] != "terminated"]
    ended = tuple(item for item in ids if item not in {instance["InstanceId"] for instance in alive})
    if alive:
        states = ", ".join(f"{instance['InstanceId']} is {instance['State']['Name']}" for instance in alive)
        return Fate("running", states, instance_ids=ids, ended_ids=ended)
    if len(found) < nodes and started_at is not None and now() - started_at < LAUNCH_GRACE:
        return Fate("unknown", f"EC2 shows {len(found)} of {nodes} machines yet", instance_ids=ids)
    ends = [moment for instance in found if (moment := _ended_at(instance)) is not None]
    taken_back = any((instance.get("StateReason") or {}).get("Code") in _TAKEN_BACK for instance in found)
    return Fate("gone", "; ".join(map(_reason, found)), max(ends, default=None), ids, taken_back, ended)


def expected_since(state: Mapping[str, Any]) -> str:
    """Since when the instance of a state file's run can be expected, as the file writes it.

    A claim without one counts from its last renewal: its launch may be waiting for capacity.
    """
    return str(state["timestamps"]["start" if state["instance_id"] else "last_update"])


def is_launching(state: Mapping[str, Any] | None, run_id: str) -> bool:
    """Whether a run holds its environment without an instance: its launch alone says what becomes of it.

    When EC2 ends an instance at its start, the launch goes on to the next pool; how long it has been silent
    proves nothing, for its laptop may have slept. The record of such a run gets its end from who takes its
    claim away, by compare-and-swap: `invoke reap`, or the next launch.

    Args:
        state: what holds the environment now.
    """
    return state is not None and state["run_id"] == run_id and not state["instance_id"]


def _describe(
    ec2: EC2Client, environment: str, run_id: str, instance_id: str | None
) -> list[Mapping[str, Any]]:
    if instance_id:
        wanted: dict[str, Any] = {"InstanceIds": [instance_id]}
    else:
        tags = {"Project": "Chronos-Training", "Environment": environment, "RunId": run_id}
        wanted = {"Filters": [{"Name": f"tag:{name}", "Values": [value]} for name, value in tags.items()]}
    try:
        pages = list(ec2.get_paginator("describe_instances").paginate(**wanted))
    except ClientError as error:
        if error_code(error) in _NOT_FOUND:
            return []
        raise
    return [
        instance
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]


def _reason(instance: Mapping[str, Any]) -> str:
    reason = instance.get("StateReason") or {}
    code = reason.get("Code", "")
    words = (
        REASONS.get(code)
        or reason.get("Message")
        or instance.get("StateTransitionReason")
        or "no reason given"
    )
    return f"{instance['InstanceId']} is terminated: {words}" + (f" ({code})" if code else "")


def _ended_at(instance: Mapping[str, Any]) -> datetime | None:
    match = _MOMENT.search(instance.get("StateTransitionReason") or "")
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if match else None


def phase_of_step(step: str) -> str:
    """The phase that a `current_step` belongs to: `step_120` is training."""
    return "training" if re.fullmatch(r"(step|epoch)_\d+", step) else step


def finish_record(
    s3: S3Client,
    bucket: str,
    environment: str,
    run_id: str,
    fate: Fate,
    *,
    state: Mapping[str, Any] | None = None,
    write: bool = True,
    now: Callable[[], datetime] = utc_now,
) -> dict[str, Any] | None:
    """Complete run.json of a run whose machine is gone: `lost`, or `killed` if the state said so.

    It is `interrupted` when EC2 took the machine back before it could record that: by EC2's word, or by the
    mark that the machine made in the state when it saw the notice. A run that never had a machine is
    `launch_failed`: its launcher ended before it got one.

    An end that is already there is never touched: the write names the ETag it has read.

    Args:
        fate: what `instance_fate` said; anything but `gone` writes nothing.
        state: the last state file of this run, if one is left.
        write: False only returns what would be written.

    Returns:
        The record as it is now in the bucket, or would be; None when there is none.

    Raises:
        RecordUnreadable: run.json is not a JSON object; it is left alone.
        StorageDenied: S3 refused.
    """
    key = f"{environment}/{run_id}/run.json"
    for _ in range(WRITE_ATTEMPTS):
        found = get_bytes(s3, bucket, key)
        if found is None:
            return None
        record = decode_object(found[0], f"s3://{bucket}/{key}")
        if record.get("outcome") or fate.state != "gone":
            return record
        ending = _ending(fate, record, state, now())
        if ending["outcome"] == "interrupted":
            ending |= _interruption(s3, bucket, f"{environment}/{run_id}/", ending, state or {})
        elif ending["outcome"] == "lost" and ending["error"].startswith(DEADLINE_WORDS):
            ending["checkpoint_step"] = _saved_step(s3, bucket, f"{environment}/{run_id}/")
        finished = with_cost({**record, **_machine(record, fate, state or {}), **_progress(state), **ending})
        if not write or put_json(s3, bucket, key, finished, if_match=found[1]):
            return finished
    return record


def _ending(
    fate: Fate, record: Mapping[str, Any], state: Mapping[str, Any] | None, now: datetime
) -> dict[str, Any]:
    state = state or {}
    ended = {
        "ended_at": to_text(fate.ended_at or no_later(record, now)),
        "end_seen": fate.ended_at is not None,
    }
    message = state.get("error_message")
    killed = state.get("status") == "killed" or message == "killed by operator"
    if not killed and not _had_machine(fate, record, state):
        error = f"the launcher ended before the run had an instance; {fate.words}"
        return ended | {"outcome": "launch_failed", "failed_step": "launch", "error": error}
    error = f"{message}; {fate.words}" if message else fate.words
    step = phase_of_step(str(state["current_step"])) if state.get("current_step") else None
    taken_back = fate.taken_back or (state.get("control") or {}).get("interruption") is not None
    outcome = "killed" if killed else "interrupted" if taken_back else "lost"
    return ended | {"outcome": outcome, "failed_step": step, "error": error}


def _interruption(
    s3: S3Client, bucket: str, prefix: str, ending: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, Any]:
    """What the machine would have written: how far it was, what is safe, how to go on."""
    environment, run_id, _ = prefix.split("/")
    message = str(ending["error"])
    said = message.startswith("interrupted: ")  # by the machine itself, which came no further than its state
    match = re.search(r"at step (\d+);", message) if said else None
    match = match or re.fullmatch(r"step_(\d+)", str(state.get("current_step")))
    saved = _saved_step(s3, bucket, prefix)
    if saved is None:
        way = f"no checkpoint was saved: invoke launch --env {environment} starts over"
    else:
        way = f"the checkpoint of step {saved} is in S3, go on from it: "
        way += f"invoke launch --env {environment} --resume {run_id}"
    return {
        "error": message if said else f"interrupted: {message}; {way}",
        "interrupted_at_step": int(match[1]) if match else None,
        "checkpoint_step": saved,
    }


def _saved_step(s3: S3Client, bucket: str, prefix: str) -> int | None:
    try:
        return next((one.step for one in list_stored(s3, bucket, prefix)), None)
    except (ClientError, BotoCoreError):
        return None  # whether it can go on is seen again by the launch that tries


def _machine(record: Mapping[str, Any], fate: Fate, state: Mapping[str, Any]) -> dict[str, Any]:
    """The machine's id where the record lacks it: what no machine is named for has no cost that is known."""
    known = record.get("instance")
    instance = known if isinstance(known, dict) else {}
    found = instance.get("id") or state.get("instance_id") or next(iter(fate.instance_ids), None)
    return {"instance": {**instance, "id": found}} if found else {}


def _progress(state: Mapping[str, Any] | None) -> dict[str, Any]:
    """How far the machine had come by its last state, for the record that it did not write."""
    timeline = ((state or {}).get("control") or {}).get("timeline")
    return {"timeline": timeline} if isinstance(timeline, dict) else {}


def _had_machine(fate: Fate, record: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether anything names an instance, or the run had come further than its launch."""
    instance = record.get("instance")
    named = instance.get("id") if isinstance(instance, Mapping) else None
    further = state.get("current_step") not in (None, "launch")
    return bool(named or state.get("instance_id") or fate.instance_ids or further)
