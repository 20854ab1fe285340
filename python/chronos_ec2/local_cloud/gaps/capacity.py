"""RunInstances that is refused: no capacity, a quota, a permission; and instances that end while they start.

Real EC2: which pool (instance type, zone, market) has room changes by the minute. A pool without room answers
500 InsufficientInstanceCapacity, or accepts, and the instance goes from `pending` to `terminated` with a
StateReason. moto's data centre is never full, and its instances never fail to start.

Here `capacity.json` in the embedded AWS's home says which pools fail, and how. It is read at every launch, so
it may be written, changed and deleted while the server runs:

    [{"instance_type": "g5.*", "zone": "us-east-1a", "error": "InsufficientInstanceCapacity"},
     {"market": "spot", "state_reason": "Server.InsufficientInstanceCapacity", "times": 1}]

The first rule that fits a launch and is not used up decides; a pool that none fits has room. `instance_type`
and `zone` are patterns; these two and `market` fit everything when they are left out. `error` is one of
RunInstances' codes, `state_reason` one of StateReason's; `message` replaces EC2's words; `times` is how often
the rule holds (left out: always), counted from the last change of the file.
"""

from __future__ import annotations

import functools
import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from moto.core.responses import ActionResult
from moto.ec2.responses.instances import InstanceResponse
from werkzeug.exceptions import HTTPException

from chronos_ec2.local_cloud.gaps import around

_KEYS: Final = frozenset({"instance_type", "zone", "market", "error", "state_reason", "message", "times"})
_ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "InsufficientInstanceCapacity": (
        500,
        "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested "
        "({zone}). Our system will be working on provisioning additional capacity. You can currently get "
        "{instance_type} capacity by not specifying an Availability Zone in your request.",
    ),
    "InternalError": (500, "An internal error has occurred"),
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "Unsupported": (
        400,
        "Your requested instance type ({instance_type}) is not supported in your requested Availability Zone "
        "({zone}). Please retry your request by not specifying an Availability Zone.",
    ),
    "SpotMaxPriceTooLow": (
        400,
        "Your Spot request price is lower than the minimum required Spot request fulfillment price.",
    ),
    "MaxSpotInstanceCountExceeded": (400, "Max spot instance count exceeded"),
    "VcpuLimitExceeded": (
        400,
        "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance "
        "bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    ),
    "PendingVerification": (
        400,
        "Your request for accessing resources in this region is being validated, and you will not be able to "
        "launch additional resources in this region until the validation is complete.",
    ),
    "UnauthorizedOperation": (
        403,
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ana is not "
        "authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-east-1:123456789012:instance/* "
        "because no identity-based policy allows the ec2:RunInstances action.",
    ),
}
_STATE_REASONS: Final[Mapping[str, str]] = {
    "Server.InsufficientInstanceCapacity": "Insufficient capacity to satisfy instance request",
    "Server.InternalError": "Internal error on launch",
    "Server.SpotInstanceTermination": "Spot instance termination",
    "Client.InternalError": "Client error on launch",
    "Client.InvalidSnapshot.NotFound": "The specified snapshot could not be found",
    "Client.VolumeLimitExceeded": "Volume limit exceeded",
}
_OTHERWISE: Final = "capacity.json of the embedded AWS says so"


@dataclass(frozen=True, slots=True)
class Launch:
    """What a launch asks for."""

    instance_type: str
    zone: str
    market: str


class Refusal(HTTPException):
    """An error as EC2 words it: code, message, and the status that goes with the code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__()
        self.code = status
        self.description = (
            f"<?xml version='1.0' encoding='UTF-8'?><Response><Errors><Error><Code>{escape(code)}</Code>"
            f"<Message>{escape(message)}</Message></Error></Errors>"
            f"<RequestID>{uuid.uuid4()}</RequestID></Response>"
        )

    def get_headers(self, *_args: Any, **_kwargs: Any) -> list[tuple[str, str]]:
        """moto sends these with the description as the body."""
        return [("Content-Type", "text/xml;charset=UTF-8")]


class Script:
    """The rules of `capacity.json`, and how often each has been used since the file last changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._text = ""
        self._used: Counter[int] = Counter()

    def refuse(self, launch: Launch) -> None:
        """Refuse the request.

        Raises:
            Refusal: a rule with an `error` fits, or the file is wrong.
        """
        rule = self._take(launch, "error")
        if rule is not None:
            status, words = _ERRORS.get(rule["error"], (400, _OTHERWISE))
            message = words.format(instance_type=launch.instance_type, zone=launch.zone)
            raise Refusal(status, rule["error"], rule.get("message", message))

    def failure_at_start(self, launch: Launch) -> tuple[str, str] | None:
        """The StateReason, as code and words, with which the instance ends at the start; None: it starts."""
        rule = self._take(launch, "state_reason")
        if rule is None:
            return None
        return rule["state_reason"], rule.get("message", _STATE_REASONS.get(rule["state_reason"], _OTHERWISE))

    def _take(self, launch: Launch, kind: str) -> dict[str, Any] | None:
        """The rule that decides, when it is of this kind; it is then used once more."""
        with self._lock:
            for number, rule in enumerate(self._rules()):
                if _fits(rule, launch) and self._used[number] < rule.get("times", float("inf")):
                    self._used[number] += kind in rule
                    return rule if kind in rule else None
        return None

    def _rules(self) -> list[dict[str, Any]]:
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            text = "[]"
        if text != self._text:
            self._text = text
            self._used.clear()
        try:
            rules: list[dict[str, Any]] = json.loads(text)
            if problem := _problem(rules):
                raise ValueError(problem)
        except ValueError as error:
            raise Refusal(400, "InvalidRequest", f"{self._file} of the embedded AWS: {error}") from None
        return rules


def _problem(rules: object) -> str | None:
    """What is wrong with the file's content."""
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        return "expected a list of rules"
    for rule in rules:
        if unknown := rule.keys() - _KEYS:
            return f"unknown {', '.join(map(repr, sorted(unknown)))}; known: {', '.join(sorted(_KEYS))}"
        if len(rule.keys() & {"error", "state_reason"}) != 1:
            return f"a rule has either error or state_reason: {rule}"
        if not all(isinstance(value, int if key == "times" else str) for key, value in rule.items()):
            return f"times is a whole number, all else is text: {rule}"
    return None


def _fits(rule: Mapping[str, Any], launch: Launch) -> bool:
    return (
        fnmatchcase(launch.instance_type, rule.get("instance_type", "*"))
        and fnmatchcase(launch.zone, rule.get("zone", "*"))
        and rule.get("market", launch.market) == launch.market
    )


def install(file: Path) -> Callable[[Any], tuple[str, str] | None]:
    """Have RunInstances follow the script.

    Args:
        file: `capacity.json`, which need not be there.

    Returns:
        What the instance host asks before it boots an instance: why that one ends at the start, if it does.
    """
    script = Script(file)
    around(InstanceResponse, "run_instances", functools.partial(_scripted, script))

    def failure_of(instance: Any) -> tuple[str, str] | None:
        zone = str(instance.placement.zone or "")
        return script.failure_at_start(
            Launch(instance.instance_type, zone, "spot" if instance.lifecycle == "spot" else "on-demand")
        )

    return failure_of


def _scripted(script: Script, run_instances: Callable[..., ActionResult]) -> Callable[..., ActionResult]:
    @functools.wraps(run_instances)
    def run_or_refuse(response: Any) -> ActionResult:
        market = "spot" if response._get_param("InstanceMarketOptions.MarketType") == "spot" else "on-demand"
        script.refuse(Launch(str(response._get_param("InstanceType")), _zone_of(response), market))
        return run_instances(response)

    return run_or_refuse


def _zone_of(response: Any) -> str:
    interfaces = response._get_param("NetworkInterfaces", [])
    subnet_id = response._get_param("SubnetId") or next((one.get("SubnetId") for one in interfaces), None)
    subnets = response.ec2_backend.describe_subnets(subnet_ids=[subnet_id]) if subnet_id else []
    return str(subnets[0].availability_zone) if subnets else ""
