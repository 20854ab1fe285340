"""What AWS says, each question asked once however many checks need the answer.

Checks run side by side, so every shared answer has a lock of its own. An answer that could not be had is
remembered as well: the check that owns the question reports it, the others are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import NotDeployed
from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation.aws import EXPORT_PREFIX
from chronos_ec2.workstation.aws_clock import date_of
from chronos_ec2.workstation.doctor.answers import ApiError, NotKnown
from chronos_ec2.workstation.s3 import error_code, translate
from chronos_ec2.workstation.settings import Settings

_Answer = TypeVar("_Answer")
EXPORTS: Final = (
    "BucketName",
    "SubnetIds",
    "SecurityGroupId",
    "InstanceProfileName",
    "VpcId",
    "ScheduleGroupName",
    "SchedulerRoleArn",
    "TopicArn",
)
CLUSTER_EXPORTS: Final = ("ClusterSecurityGroupId", "PlacementGroupName")
"""What a launch of several machines reads beside."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """STS's answer to "who am I", also when that is a refusal.

    Attributes:
        arn: who; empty when refused.
        problem: why not.
        skew_seconds: how far AWS's clock is ahead of this machine's; None when no answer came.
    """

    arn: str
    problem: Exception | None
    skew_seconds: float | None


class Facts:
    """One environment's AWS, asked on demand.

    Args:
        connect: makes boto3's client of a service.
        now: this machine's clock.
    """

    def __init__(
        self, settings: Settings, connect: Callable[[str], Any], *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.settings = settings
        self.now = now
        self._connect = connect
        self._clients: dict[str, Any] = {}
        self._connecting = threading.Lock()
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._answers: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The client of a service. boto3 makes them one at a time only; their calls may overlap."""
        with self._connecting:
            if service not in self._clients:
                self._clients[service] = self._connect(service)
            return self._clients[service]

    def ask(self, service: str, operation: str, /, **arguments: Any) -> dict[str, Any]:
        """Call one of AWS's operations, by boto3's name for it.

        Raises:
            NotKnown: there are no usable credentials.
            ApiError: AWS refused.
            ChronosError: AWS does not answer.
        """
        self.identity()
        return self._call(service, operation, arguments)

    def pages(self, service: str, operation: str, key: str, /, **arguments: Any) -> list[Any]:
        """The items under `key` of all pages of an operation's answer."""
        token, found = "", []
        while True:
            answer = self.ask(service, operation, **arguments, **({"NextToken": token} if token else {}))
            found += answer.get(key, [])
            token = answer.get("NextToken") or ""
            if not token:
                return found

    def shared(self, owner: str, question: str, ask: Callable[[], _Answer]) -> _Answer:
        """The answer to a question, asked by whoever comes first.

        Args:
            owner: the check that reports it when there is none.

        Raises:
            NotKnown: there is no answer; a question that rests on another passes that one's owner on.
        """
        with self._guard:
            lock = self._locks.setdefault(question, threading.Lock())
        with lock:
            if question not in self._answers:
                try:
                    self._answers[question] = ask()
                except NotKnown as error:
                    self._answers[question] = error
                except Exception as error:
                    self._answers[question] = NotKnown(owner, error)
        answer: _Answer | NotKnown = self._answers[question]
        if isinstance(answer, NotKnown):
            raise answer
        return answer

    def greeting(self) -> Greeting:
        """STS's answer to "who am I"."""
        return self.shared("credentials", "greeting", self._greet)

    def identity(self) -> str:
        """The caller's ARN."""
        greeting = self.greeting()
        if greeting.problem is not None:
            raise NotKnown("credentials", greeting.problem)
        return greeting.arn

    def exports(self) -> Mapping[str, str]:
        """The stack's exports, names without the prefix; those that are there."""
        return self.shared("exports", "exports", self._exports)

    @property
    def wanted_exports(self) -> tuple[str, ...]:
        """The exports that a launch with these settings reads."""
        return EXPORTS + (CLUSTER_EXPORTS if self.settings.nodes > 1 else ())

    def export(self, name: str) -> str:
        """One of the stack's exports."""
        try:
            return self.exports()[name]
        except KeyError:
            raise NotKnown("exports", NotDeployed(f"{EXPORT_PREFIX}{name} is missing")) from None

    @property
    def bucket(self) -> str:
        """The stack's bucket."""
        return self.export("BucketName")

    def _exports(self) -> dict[str, str]:
        found = self.pages("cloudformation", "list_exports", "Exports")
        return {
            export["Name"].removeprefix(EXPORT_PREFIX): export["Value"]
            for export in found
            if export["Name"].startswith(EXPORT_PREFIX)
        }

    def _greet(self) -> Greeting:
        client, asked_at = self.client("sts"), self.now()
        try:
            answer = client.get_caller_identity()
        except ClientError as error:
            return Greeting("", translate(error, "STS"), self._skew(error.response, asked_at))
        except BotoCoreError as error:
            return Greeting("", translate(error, "STS"), None)
        return Greeting(str(answer["Arn"]), None, self._skew(answer, asked_at))

    def _skew(self, answer: Mapping[str, Any], asked_at: datetime) -> float | None:
        date = date_of(answer)
        if date is None:
            return None
        here = asked_at + (self.now() - asked_at) / 2
        return (date - here).total_seconds()

    def _call(self, service: str, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        client = self.client(service)
        try:
            answer: dict[str, Any] = getattr(client, operation)(**arguments)
        except ClientError as error:
            message = str(error.response.get("Error", {}).get("Message", error))
            raise ApiError(service, str(error.operation_name), error_code(error), message) from error
        except BotoCoreError as error:
            raise translate(error, service) from error
        return answer
