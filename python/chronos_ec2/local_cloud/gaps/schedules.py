"""One-off schedules that are carried out.

Real EventBridge Scheduler carries out `at(...)` within the minute that begins then, in UTC unless the
schedule names a zone: it assumes the target's role, which must let it when the schedule is made already, and
for a target arn:aws:scheduler:::aws-sdk:SERVICE:ACTION calls that action with Input. A call that fails is
made again, with backoff, as the RetryPolicy says. With ActionAfterCompletion=DELETE the schedule then goes,
whether the call has worked or not. A repeated ClientToken makes nothing new; a group that is not there is
refused, and a role that does not trust the service for that group and account. moto stores schedules, and
that is all.

What differs here: a schedule is carried out within a second; `rate`, `cron`, other zones than UTC, flexible
windows and dead-letter queues are stored only; retries come after 1, 2, 4, … up to 60 s. The service's clock
is this machine's plus the seconds in the file `clock-offset` of the embedded AWS's home: tests need not wait.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.iam.models import iam_backends
from moto.scheduler.exceptions import ValidationException
from moto.scheduler.models import scheduler_backends
from moto.scheduler.responses import EventBridgeSchedulerResponse
from moto.sts.models import sts_backends
from moto.utilities.utils import get_partition

from chronos_ec2.local_cloud.gaps import around

SERVICE: Final = "scheduler.amazonaws.com"
LOOK_SECONDS: Final = 0.25
LONGEST_BACKOFF_SECONDS: Final = 60.0
_AT: Final = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")
_TARGET: Final = re.compile(r"arn:aws[a-z-]*:scheduler:::aws-sdk:([a-z0-9-]+):([a-z][A-Za-z0-9]*)")
_LOG = logging.getLogger(__name__)


def install(endpoint_url: str, clock_offset: Path) -> None:
    """Check schedules when they are made, and carry them out when their time has come.

    Args:
        endpoint_url: where the calls go: this embedded AWS.
        clock_offset: the file with the seconds that the service's clock is ahead of this machine's.
    """
    around(EventBridgeSchedulerResponse, "create_schedule", _checked)
    service = _Service(endpoint_url, clock_offset)
    threading.Thread(target=service.run, daemon=True, name="schedules").start()


def _checked(create_schedule: Callable[[Any], str]) -> Callable[[Any], str]:
    lock = threading.Lock()
    answers: dict[tuple[str, str, str], str] = {}

    @functools.wraps(create_schedule)
    def create_checked(response: Any) -> str:
        account, region = response.current_account, response.region
        key = (account, region, str(response._get_param("ClientToken")))
        with lock:
            if key not in answers:
                group = response.scheduler_backend.get_schedule_group(response._get_param("GroupName"))
                _require_time(str(response._get_param("ScheduleExpression")))
                _require_trust(account, region, group.arn, str(response._get_param("Target")["RoleArn"]))
                answers[key] = create_schedule(response)
            return answers[key]

    return create_checked


def _require_time(expression: str) -> None:
    if expression.startswith(("rate(", "cron(")):
        return
    try:
        _moment(expression)
    except ValueError as error:
        raise ValidationException(f"Invalid Schedule Expression {expression}.") from error


def _moment(expression: str) -> float:
    """When a one-off schedule is due, in seconds since 1970."""
    found = _AT.fullmatch(expression)
    if found is None:
        raise ValueError(expression)
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()


def _require_trust(account: str, region: str, group_arn: str, role_arn: str) -> None:
    roles = [
        role for role in iam_backends[account][get_partition(region)].get_roles() if role.arn == role_arn
    ]
    asked = {"aws:SourceArn": group_arn, "aws:SourceAccount": account}
    if not any(_trusts(role.assume_role_policy_document, asked) for role in roles):
        raise ValidationException(
            "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
        )


def _trusts(document: Any, asked: dict[str, str]) -> bool:
    """Whether a trust policy lets the service assume its role; a condition on anything else is not met."""
    policy = json.loads(document) if isinstance(document, str) else document
    return any(
        statement["Effect"] == "Allow"
        and SERVICE in _list(statement.get("Principal", {}).get("Service", []))
        and "sts:AssumeRole" in _list(statement["Action"])
        and all(
            any(fnmatchcase(asked.get(name, ""), pattern) for pattern in _list(wanted))
            for pairs in statement.get("Condition", {}).values()
            for name, wanted in pairs.items()
        )
        for statement in policy["Statement"]
    )


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


@dataclass
class _Due:
    """A schedule that is being carried out."""

    attempts: int = 0
    next_at: float = 0.0


class _Service:
    """Looks at all schedules again and again."""

    def __init__(self, endpoint_url: str, clock_offset: Path) -> None:
        self._endpoint_url = endpoint_url
        self._clock_offset = clock_offset
        self._due: dict[str, _Due] = {}
        self._done: set[str] = set()

    def run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                self._look()
            except Exception:  # whatever a schedule holds, the next one is looked at
                _LOG.exception("schedules")

    def _now(self) -> float:
        try:
            return time.time() + float(self._clock_offset.read_text())
        except (OSError, ValueError):
            return time.time()

    def _look(self) -> None:
        now = self._now()
        backends: list[tuple[str, str, Any]] = list(scheduler_backends.iter_backends())
        for account, region, backend in backends:
            for group in list(backend.schedule_groups.values()):
                for schedule in list(group.schedules.values()):
                    if self._is_due(schedule, now):
                        self._carry_out(account, region, schedule)
                        self._settle(group, schedule)

    def _is_due(self, schedule: Any, now: float) -> bool:
        if schedule.state != "ENABLED" or not _AT.fullmatch(schedule.schedule_expression):
            return False
        due = self._due.get(_key(schedule), _Due())
        waited = time.monotonic() >= due.next_at
        return _key(schedule) not in self._done and waited and _moment(schedule.schedule_expression) <= now

    def _carry_out(self, account: str, region: str, schedule: Any) -> None:
        due = self._due.setdefault(_key(schedule), _Due())
        due.attempts += 1
        due.next_at = time.monotonic() + min(LONGEST_BACKOFF_SECONDS, 2.0 ** (due.attempts - 1))
        try:
            self._call(account, region, schedule.target)
        except (ClientError, BotoCoreError, ValueError) as error:
            _LOG.warning("schedule %s, attempt %d: %s", schedule.name, due.attempts, error)
            if due.attempts <= schedule.target["RetryPolicy"]["MaximumRetryAttempts"]:
                return
        self._done.add(_key(schedule))

    def _call(self, account: str, region: str, target: dict[str, Any]) -> None:
        found = _TARGET.fullmatch(target["Arn"])
        if found is None:
            raise ValueError(f"the embedded AWS calls aws-sdk targets only, not {target['Arn']}")
        role = sts_backends[account][get_partition(region)].assume_role(
            region_name=region,
            role_session_name="scheduler",
            role_arn=target["RoleArn"],
            policy="",
            duration=900,
            external_id="",
        )
        make_client: Any = boto3.session.Session().client
        client = make_client(
            found[1],
            region_name=region,
            endpoint_url=self._endpoint_url,
            aws_access_key_id=role.access_key_id,
            aws_secret_access_key=role.secret_access_key,
            aws_session_token=role.session_token,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
        action = found[2][0].upper() + found[2][1:]
        client._make_api_call(action, json.loads(target.get("Input") or "{}"))

    def _settle(self, group: Any, schedule: Any) -> None:
        """Forget a schedule that is over; one made anew under its name is another."""
        if _key(schedule) not in self._done or schedule.action_after_completion != "DELETE":
            return
        if group.schedules.get(schedule.name) is schedule:
            group.delete_schedule(schedule.name)
        self._due.pop(_key(schedule), None)


def _key(schedule: Any) -> str:
    """One occurrence: an update to another time is carried out again."""
    return f"{schedule.arn} {schedule.schedule_expression} {schedule.creation_date}"
