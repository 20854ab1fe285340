"""End what nobody owns: `invoke reap`, the dead man's switch that a person or a cron job pulls.

It terminates instances that belong to no live run, are past their deadline or give no sign of life,
frees environments whose instance EC2 proves gone, completes their records, and drops staged leftovers.
What EC2 cannot be asked about is left alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TextIO

from chronos_ec2.errors import StateUnreadable, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import from_text, utc_now
from chronos_ec2.state.machine import validate_state
from chronos_ec2.state.store import Snapshot, StateStore, state_key
from chronos_ec2.workstation.instances import live_instances
from chronos_ec2.workstation.outcome import Fate, finish_record, instance_fate
from chronos_ec2.workstation.reap_plan import Action, Holding, Machine, Survey, decide
from chronos_ec2.workstation.run_ids import RUN_ID
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.s3 import list_prefix, translated

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

TERMINATION_SECONDS: Final = 120.0
RACES: Final = 5


class Reaper:
    """One environment's reaper.

    Args:
        stale_after: how long a run may go without a sign of life.
        claim_patience: how long a claim may have no instance.
        out: where it says what it does.
        tell: called with a run's id when its record has got its end.
        now, sleep: clock and sleep in seconds, for tests.
    """

    def __init__(
        self,
        s3: S3Client,
        ec2: EC2Client,
        bucket: str,
        environment: str,
        *,
        stale_after: timedelta,
        claim_patience: timedelta,
        out: TextIO,
        tell: Callable[[str], None] = lambda run_id: None,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._s3 = s3
        self._ec2 = ec2
        self._bucket = bucket
        self._environment = environment
        self._stale_after = stale_after
        self._claim_patience = claim_patience
        self._out = out
        self._tell = tell
        self._now = now
        self._sleep = sleep
        self._store = StateStore(s3, bucket, environment, now=now, sleep=sleep)

    def plan(self) -> tuple[Survey, list[Action]]:
        """Look, and decide; changes nothing.

        Raises:
            ChronosError: S3 or EC2 could not be asked.
        """
        survey = self._survey()
        actions = decide(survey, stale_after=self._stale_after, claim_patience=self._claim_patience)
        return survey, actions

    def carry_out(self, survey: Survey, actions: Sequence[Action]) -> bool:
        """Do what was decided.

        Returns:
            Whether everything that had to go is gone.
        """
        ids = [action.what for action in actions if action.kind == "terminate"]
        gone = self._terminate(ids) if ids else True
        for action in actions:
            if action.kind == "terminate" and action.run_id and gone:
                self._finish(action, survey)
            elif action.kind == "free" and gone:
                self._free(action, survey)
            elif action.kind == "drop":
                with translated(action.what):
                    self._s3.delete_object(Bucket=self._bucket, Key=action.what)
        # Runs whose machine and state are both gone, and whose record nobody has completed.
        list_runs(self._s3, self._bucket, self._environment, ec2=self._ec2, now=self._now)
        return gone

    def _survey(self) -> Survey:
        # The state first: a machine that shows up after it has been read is too young to be ended.
        holding = self._holding()
        staged = list_prefix(self._s3, self._bucket, f"{state_key(self._environment)}.tmp-")
        return Survey(
            environment=self._environment,
            now=self._now(),
            holding=holding,
            machines=self._machines(),
            staged=[(item.key, item.modified) for item in staged],
        )

    def _holding(self) -> Holding | None:
        with translated(self._store.uri):
            raw = self._store.read_raw()
        if raw is None:
            return None
        try:
            body = validate_state(json.loads(raw[0]))
            started = from_text(body["timestamps"]["start"])
        except (StateUnreadable, ValueError, RecursionError) as error:
            return Holding(None, raw[1], problem=f"the state file is corrupt ({error})")
        fate = instance_fate(
            self._ec2,
            self._environment,
            body["run_id"],
            body["instance_id"],
            started_at=started,
            now=self._now,
        )
        return Holding(body, raw[1], fate=fate)

    def _machines(self) -> list[Machine]:
        return [
            Machine(
                item["InstanceId"],
                next((tag["Value"] for tag in item.get("Tags", []) if tag["Key"] == "RunId"), None),
                item["LaunchTime"],
            )
            for item in live_instances(self._ec2, self._environment)
        ]

    def _terminate(self, ids: list[str]) -> bool:
        self._out.write(f"terminating {', '.join(ids)}\n")
        with translated("EC2"):
            self._ec2.terminate_instances(InstanceIds=ids)
        deadline = time.monotonic() + TERMINATION_SECONDS
        while {machine.instance_id for machine in self._machines()} & set(ids):
            if time.monotonic() > deadline:
                self._out.write(f"{', '.join(ids)} is not gone after {TERMINATION_SECONDS:.0f} s\n")
                return False
            self._sleep(1.0)
        return True

    def _finish(self, action: Action, survey: Survey) -> None:
        if not RUN_ID.fullmatch(action.run_id or ""):
            return
        body = survey.holding.body if survey.holding else None
        state = body if body is not None and body["run_id"] == action.run_id else None
        fate = Fate("gone", f"reaped: {action.what} {action.why}")
        finish_record(
            self._s3, self._bucket, self._environment, str(action.run_id), fate, state=state, now=self._now
        )
        self._tell(str(action.run_id))

    def _record_end(self, body: Mapping[str, Any], fate: Fate) -> None:
        run_id = str(body["run_id"])
        if not RUN_ID.fullmatch(run_id):
            return
        finish_record(self._s3, self._bucket, self._environment, run_id, fate, state=body, now=self._now)
        self._tell(run_id)

    def _free(self, action: Action, survey: Survey) -> None:
        holding = survey.holding
        assert holding is not None
        if holding.body is not None and holding.fate is not None:
            self._record_end(holding.body, Fate("gone", holding.fate.words, holding.fate.ended_at))
        for _ in range(RACES):
            if self._store.delete(Snapshot(dict(holding.body or {}), holding.etag)):
                self._out.write(f"{self._environment} is free\n")
                return
            # The instance's own clean-up may have written once more before it ended.
            now_there = self._holding()
            if now_there is None or now_there.run_id != holding.run_id:
                break
            holding = now_there
        self._out.write(f"{self._environment} has changed hands meanwhile; it is left alone\n")


def print_plan(actions: Sequence[Action], environment: str, out: TextIO, *, as_json: bool = False) -> None:
    """Say what was decided, for a person or as JSON."""
    if as_json:
        found: dict[str, Any] = {"environment": environment, "actions": [asdict(item) for item in actions]}
        out.write(json.dumps(found) + "\n")
        return
    for action in actions:
        out.write(f"{action}\n")
    if not actions:
        out.write(f"{environment}: nothing to end\n")


def agreed() -> bool:
    """Ask the person at the terminal; nobody there is a no."""
    return sys.stdin.isatty() and input("Do it? [y/N] ").strip().lower() == "y"


def reap(
    reaper: Reaper,
    environment: str,
    *,
    out: TextIO,
    dry_run: bool,
    as_json: bool,
    confirm: Callable[[], bool],
) -> ExitCode:
    """Plan, show the plan, ask, carry it out.

    Args:
        confirm: asked only when there is something to do.

    Returns:
        OK; FAILED when something that had to go is still there.
    """
    survey, actions = reaper.plan()
    print_plan(actions, environment, out, as_json=as_json)
    if dry_run or all(action.kind == "leave" for action in actions):
        if not dry_run:
            reaper.carry_out(survey, [])
        return ExitCode.OK
    if not confirm():
        raise UsageProblem("nothing was ended: nobody agreed; give --yes to do it")
    return ExitCode.OK if reaper.carry_out(survey, actions) else ExitCode.FAILED
