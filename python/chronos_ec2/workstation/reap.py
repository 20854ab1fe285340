"""End what nobody owns: `invoke reap`, the dead man's switch that a person or a cron job pulls.

It terminates instances that belong to no live run, are past their deadline or give no sign of life, frees
environments whose instance EC2 proves gone, completes their records, and clears what such runs leave behind:
volumes, outside switches, spot requests, staged states. A live run whose launch ended too early gets its
outside switch late. What EC2 cannot be asked about is left alone; when S3 cannot be asked, only what is past
its deadline by its own tag is ended.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TextIO

from chronos_ec2.errors import ChronosError, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now
from chronos_ec2.state.store import Snapshot, StateStore
from chronos_ec2.workstation.outcome import Fate, finish_record
from chronos_ec2.workstation.reap_cleaning import Cleaner
from chronos_ec2.workstation.reap_look import Lookout
from chronos_ec2.workstation.reap_plan import Action, Survey, decide
from chronos_ec2.workstation.run_ids import RUN_ID
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.s3 import translated
from chronos_ec2.workstation.switch_service import OutsideSwitches

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

TERMINATION_SECONDS: Final = 120.0
RACES: Final = 5


class Reaper:
    """One environment's reaper.

    Args:
        bucket: the stack's; None when there is none, for the reason in `trouble`.
        stale_after: how long a run may go without a sign of life.
        claim_patience: how long a claim may have no instance.
        out: where it says what it does.
        tell: called with a run's id when its record has got its end.
        switches: the outside switches; None where the stack has none.
        region: the environment's, by which things have their prices.
        now, sleep: clock and sleep in seconds, for tests.
    """

    def __init__(
        self,
        s3: S3Client,
        ec2: EC2Client,
        bucket: str | None,
        environment: str,
        *,
        stale_after: timedelta,
        claim_patience: timedelta,
        out: TextIO,
        tell: Callable[[str], None] = lambda run_id: None,
        switches: OutsideSwitches | None = None,
        trouble: ChronosError | None = None,
        region: str = "",
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.environment = environment
        self.region = region
        self._s3 = s3
        self._ec2 = ec2
        self._bucket = bucket or ""
        self._stale_after = stale_after
        self._claim_patience = claim_patience
        self._out = out
        self._tell = tell
        self._now = now
        self._sleep = sleep
        self._look = Lookout(s3, ec2, bucket, environment, switches, now=now, trouble=trouble)
        self._store = StateStore(s3, self._bucket, environment, now=now, sleep=sleep)
        self._cleaner = Cleaner(s3, ec2, bucket, switches, out)

    @property
    def trouble(self) -> ChronosError | None:
        """Why S3 could not be asked, so that this was not all that there is."""
        return self._look.trouble

    def plan(self) -> tuple[Survey, list[Action]]:
        """Look, and decide; changes nothing.

        Raises:
            ChronosError: EC2 could not be asked.
        """
        survey = self._look.survey()
        actions = decide(survey, stale_after=self._stale_after, claim_patience=self._claim_patience)
        return survey, actions

    def carry_out(self, survey: Survey, actions: Sequence[Action]) -> bool:
        """Do what was decided.

        Returns:
            Whether everything that had to go is gone, and what had to be armed is.
        """
        ids = [action.what for action in actions if action.kind == "terminate"]
        if ids and not self._terminate(ids):
            return False
        done, held = True, set[str | None]()
        for action in actions:
            if action.kind == "terminate" and survey.blind is None:
                self._finish(action, survey)
            elif action.kind == "free" and not self._free(survey):
                held.add(action.run_id)
            elif action.run_id not in held:
                done = self._cleaner.clean(action, survey) and done
        if survey.blind is None:
            # Runs whose machine and state are both gone, and whose record nobody has completed.
            list_runs(self._s3, self._bucket, self.environment, ec2=self._ec2, now=self._now)
        return done

    def _terminate(self, ids: list[str]) -> bool:
        self._out.write(f"terminating {', '.join(ids)}\n")
        refused: ChronosError | None = None
        for instance_id in ids:  # each by itself: EC2 ends none of several when it refuses one
            try:
                with translated(f"EC2 instance {instance_id}"):
                    self._ec2.terminate_instances(InstanceIds=[instance_id])
            except ChronosError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        deadline = time.monotonic() + TERMINATION_SECONDS
        while {machine.instance_id for machine in self._look.machines()} & set(ids):
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
        fate = Fate("gone", f"reaped: {action.what} {action.why}", instance_ids=(action.what,))
        finish_record(
            self._s3, self._bucket, self.environment, str(action.run_id), fate, state=state, now=self._now
        )
        self._tell(str(action.run_id))

    def _record_end(self, body: Mapping[str, Any], fate: Fate) -> None:
        run_id = str(body["run_id"])
        if not RUN_ID.fullmatch(run_id):
            return
        finish_record(self._s3, self._bucket, self.environment, run_id, fate, state=body, now=self._now)
        self._tell(run_id)

    def _free(self, survey: Survey) -> bool:
        """Delete the state file. False when the same run still holds the environment, and goes on writing."""
        holding = survey.holding
        assert holding is not None
        if holding.body is not None and holding.fate is not None:
            self._record_end(holding.body, replace(holding.fate, state="gone"))
        for _ in range(RACES):
            if self._store.delete(Snapshot(dict(holding.body or {}), holding.etag)):
                self._out.write(f"{self.environment} is free\n")
                return True
            # The instance's own clean-up may have written once more before it ended.
            now_there = self._look.holding()
            if now_there is None or now_there.run_id != holding.run_id:
                self._out.write(f"{self.environment} has changed hands meanwhile; it is left alone\n")
                return True
            holding = now_there
        self._out.write(f"{self.environment}: run {holding.run_id} goes on writing; it is left alone\n")
        return False


def print_plan(
    actions: Sequence[Action],
    environment: str,
    out: TextIO,
    *,
    as_json: bool = False,
    usd_a_day: float | None = None,
) -> None:
    """Say what was decided, for a person or as JSON.

    Args:
        usd_a_day: what the things that are to go cost, in US dollars a day; None where nobody knows.
    """
    if as_json:
        found: dict[str, Any] = {"environment": environment, "actions": [asdict(item) for item in actions]}
        out.write(json.dumps({**found, "usd_a_day": usd_a_day}) + "\n")
        return
    for action in actions:
        out.write(f"{action}\n")
    if usd_a_day:
        out.write(f"{environment}: what is to go costs about ${usd_a_day:.2f} a day\n")
    if not actions:
        out.write(f"{environment}: nothing to end\n")


def agreed() -> bool:
    """Ask the person at the terminal; nobody there is a no."""
    if not sys.stdin.isatty():
        return False
    print("Do it? [y/N] ", end="", file=sys.stderr, flush=True)  # stdout is for the plan
    return sys.stdin.readline().strip().lower() == "y"


def reap(
    reaper: Reaper, *, out: TextIO, dry_run: bool, as_json: bool, confirm: Callable[[], bool]
) -> ExitCode:
    """Plan, show the plan, ask, carry it out, in one environment; as `reap_each`."""
    return reap_each([reaper], out=out, dry_run=dry_run, as_json=as_json, confirm=confirm)


def reap_each(
    reapers: Sequence[Reaper],
    *,
    out: TextIO,
    dry_run: bool,
    as_json: bool,
    confirm: Callable[[], bool],
    price: Callable[[Reaper, Survey, Sequence[Action]], float | None] = lambda *_: None,
    forgive: tuple[type[ChronosError], ...] = (),
) -> ExitCode:
    """Plan in all environments, show the plans, ask once, carry them out.

    Args:
        confirm: asked only when there is something to do.
        price: what the things that are to go cost, in US dollars a day.
        forgive: troubles with S3 that are none where there is no instance.

    Returns:
        OK; FAILED when something that had to go is still there.

    Raises:
        ChronosError: S3 or EC2 could not be asked somewhere, and the rest was done; or nobody agreed.
    """
    plans: list[tuple[Reaper, Survey, list[Action]]] = []
    troubles: list[ChronosError] = []
    for reaper in reapers:
        try:
            survey, actions = reaper.plan()
        except ChronosError as error:
            troubles.append(error)
            continue
        plans.append((reaper, survey, actions))
        if reaper.trouble is not None and (survey.machines or not isinstance(reaper.trouble, forgive)):
            troubles.append(reaper.trouble)
    for reaper, survey, actions in plans:
        cost = price(reaper, survey, actions)
        print_plan(actions, reaper.environment, out, as_json=as_json, usd_a_day=cost)
    code = ExitCode.OK if dry_run else _carry_out(plans, confirm)
    for trouble in troubles:
        raise trouble
    return code


def _carry_out(
    plans: Sequence[tuple[Reaper, Survey, Sequence[Action]]], confirm: Callable[[], bool]
) -> ExitCode:
    to_do = [[action for action in actions if action.kind != "leave"] for _, _, actions in plans]
    if any(to_do) and not confirm():
        raise UsageProblem("nothing was ended: nobody agreed; give --yes to do it")
    done = [
        reaper.carry_out(survey, wanted) for (reaper, survey, _), wanted in zip(plans, to_do, strict=True)
    ]
    return ExitCode.OK if all(done) else ExitCode.FAILED
