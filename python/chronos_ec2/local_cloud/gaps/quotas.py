"""EC2's vCPU quotas in Service Quotas.

Real AWS: the limits on running vCPUs, by family and market, are quotas of the service `ec2`; a request for
more is PENDING or CASE_OPENED until AWS has decided, and a second one for the same quota is refused with
ResourceAlreadyExistsException. moto knows quotas of VPC alone and no requests. Here the account is one that
has been given more than a new one gets (5 for the standard families, 0 for the others), requests stay
PENDING, and nothing is enforced.
"""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from moto.core.exceptions import JsonRESTError
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse

from chronos_ec2.local_cloud.gaps import around

SERVICE: Final = "Amazon Elastic Compute Cloud (Amazon EC2)"
EC2_QUOTAS: Final[dict[str, tuple[str, float]]] = {
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 256.0),
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 256.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 64.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 64.0),
    "L-417A185B": ("Running On-Demand P instances", 96.0),
    "L-7212CCBC": ("All P4, P3 and P2 Spot Instance Requests", 96.0),
    "L-C4BD4855": ("All P5 Spot Instance Requests", 0.0),
}


class RequestIsOpen(JsonRESTError):
    """A request for the same quota waits for its answer."""

    def __init__(self) -> None:
        super().__init__(
            "ResourceAlreadyExistsException",
            "Only one open service quota increase request is allowed per quota.",
        )


def install() -> None:
    """Give moto's Service Quotas the EC2 quotas and requests for more of them."""
    around(ServiceQuotasBackend, "get_service_quota", _with_ec2)
    requests: dict[tuple[str, str, str], dict[str, Any]] = {}
    for method in (_asking(requests), _listing(requests)):
        setattr(ServiceQuotasResponse, method.__name__, method)


def _with_ec2(get_service_quota: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(get_service_quota)
    def get(backend: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2" or quota_code not in EC2_QUOTAS:
            return get_service_quota(backend, service_code=service_code, quota_code=quota_code)
        name, value = EC2_QUOTAS[quota_code]
        return {
            "ServiceCode": "ec2",
            "ServiceName": SERVICE,
            "QuotaArn": f"arn:aws:servicequotas:{backend.region_name}:{backend.account_id}:ec2/{quota_code}",
            "QuotaCode": quota_code,
            "QuotaName": name,
            "Value": value,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
            "QuotaAppliedAtLevel": "ACCOUNT",
        }

    return get


def _asking(requests: dict[tuple[str, str, str], dict[str, Any]]) -> Callable[[Any], str]:
    def request_service_quota_increase(response: Any) -> str:
        asked = json.loads(response.body)
        quota = response.backend.get_service_quota(asked["ServiceCode"], asked["QuotaCode"])
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
        quota = response.backend.get_service_quota(asked["ServiceCode"], asked["QuotaCode"])
        found = requests.get((response.current_account, response.region, quota["QuotaArn"]))
        shown = [found] if found and asked.get("Status", found["Status"]) == found["Status"] else []
        return json.dumps({"RequestedQuotas": shown})

    return list_requested_service_quota_change_history_by_quota
