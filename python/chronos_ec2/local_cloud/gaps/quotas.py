"""EC2's vCPU quotas in Service Quotas.

Real AWS: the limits on running vCPUs, by family and market, are quotas of the service `ec2`. GetServiceQuota
knows those that the account was ever given; of the others it says NoSuchResourceException, and only
GetAWSDefaultServiceQuota has a value. A request for more is PENDING or CASE_OPENED until AWS has decided, and
a second one for the same quota is refused with ResourceAlreadyExistsException. moto knows quotas of VPC
alone, and neither defaults nor requests. Here the account is one that has been given more than a new one gets
(5 for the standard families, 0 for the others), requests stay PENDING, and nothing is enforced.
"""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from moto.core.exceptions import JsonRESTError
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse

from chronos_ec2.local_cloud.gaps import around

SERVICE: Final = "Amazon Elastic Compute Cloud (Amazon EC2)"
# Name, what every account has, and what this one was given, if anything.
EC2_QUOTAS: Final[dict[str, tuple[str, float, float | None]]] = {
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 5.0, 256.0),
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 5.0, 256.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 0.0, 64.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 0.0, 64.0),
    "L-417A185B": ("Running On-Demand P instances", 0.0, 96.0),
    "L-7212CCBC": ("All P4, P3 and P2 Spot Instance Requests", 0.0, 96.0),
    "L-C4BD4855": ("All P5 Spot Instance Requests", 0.0, None),
}


class RequestIsOpen(JsonRESTError):
    """A request for the same quota waits for its answer."""

    def __init__(self) -> None:
        super().__init__(
            "ResourceAlreadyExistsException",
            "Only one open service quota increase request is allowed per quota.",
        )


def install() -> None:
    """Give moto's Service Quotas the EC2 quotas, their defaults, and requests for more of them."""
    around(ServiceQuotasBackend, "get_service_quota", _with_ec2)
    requests: dict[tuple[str, str, str], dict[str, Any]] = {}
    for method in (get_aws_default_service_quota, _asking(requests), _listing(requests)):
        setattr(ServiceQuotasResponse, method.__name__, method)


def _with_ec2(get_service_quota: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(get_service_quota)
    def get(backend: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2":
            return get_service_quota(backend, service_code=service_code, quota_code=quota_code)
        name, _, given = _known(quota_code)
        if given is None:
            raise NoSuchResource
        return _described(backend, quota_code, name, given)

    return get


def get_aws_default_service_quota(response: Any) -> str:
    """What every account has, however much this one was given."""
    asked = json.loads(response.body)
    name, default, _ = _known(asked["QuotaCode"] if asked["ServiceCode"] == "ec2" else "")
    return json.dumps({"Quota": _described(response.backend, asked["QuotaCode"], name, default)})


def _known(code: str) -> tuple[str, float, float | None]:
    if code not in EC2_QUOTAS:
        raise NoSuchResource
    return EC2_QUOTAS[code]


def _described(backend: Any, code: str, name: str, value: float) -> dict[str, Any]:
    return {
        "ServiceCode": "ec2",
        "ServiceName": SERVICE,
        "QuotaArn": f"arn:aws:servicequotas:{backend.region_name}:{backend.account_id}:ec2/{code}",
        "QuotaCode": code,
        "QuotaName": name,
        "Value": value,
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
        "QuotaAppliedAtLevel": "ACCOUNT",
    }


def _any_quota(backend: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A quota that somebody asks for more of, given before or not."""
    if asked["ServiceCode"] != "ec2":
        found: dict[str, Any] = backend.get_service_quota(asked["ServiceCode"], asked["QuotaCode"])
        return found
    name, default, given = _known(asked["QuotaCode"])
    return _described(backend, asked["QuotaCode"], name, default if given is None else given)


def _asking(requests: dict[tuple[str, str, str], dict[str, Any]]) -> Callable[[Any], str]:
    def request_service_quota_increase(response: Any) -> str:
        asked = json.loads(response.body)
        quota = _any_quota(response.backend, asked)
        key = (response.current_account, response.region, quota["QuotaArn"])
        if key in requests:
            raise RequestIsOpen()
        kept = ("ServiceCode", "ServiceName", "QuotaCode", "QuotaName", "QuotaArn", "GlobalQuota", "Unit")
        now = time.time()
        requests[key] = {
            **{name: quota[name] for name in kept},
            "Id": uuid.uuid4().hex,
            "DesiredValue": asked["DesiredValue"],
            "Status": "PENDING",
            "Created": now,
            "LastUpdated": now,
            "QuotaRequestedAtLevel": "ACCOUNT",
        }
        return json.dumps({"RequestedQuota": requests[key]})

    return request_service_quota_increase


def _listing(requests: dict[tuple[str, str, str], dict[str, Any]]) -> Callable[[Any], str]:
    def list_requested_service_quota_change_history_by_quota(response: Any) -> str:
        asked = json.loads(response.body)
        quota = _any_quota(response.backend, asked)
        found = requests.get((response.current_account, response.region, quota["QuotaArn"]))
        shown = [found] if found and asked.get("Status", found["Status"]) == found["Status"] else []
        return json.dumps({"RequestedQuotas": shown})

    return list_requested_service_quota_change_history_by_quota
