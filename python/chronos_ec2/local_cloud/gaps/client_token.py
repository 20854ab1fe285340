"""RunInstances idempotency.

Real EC2: a request that repeats a ClientToken with the same parameters launches nothing and answers with the
first request's reservation, as its instances are now; with other parameters it fails with 400
IdempotentParameterMismatch. A request that failed does not use its token up. DescribeInstances finds an
instance by its token. moto stores the token and launches again, and does not know that filter.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import filter_dict_attribute_mapping

from chronos_ec2.local_cloud.gaps import around

_NOT_PARAMETERS = frozenset({"ClientToken", "Action", "Version"})


class IdempotentParameterMismatch(EC2ClientError):
    """The token was used with other parameters."""

    code = "IdempotentParameterMismatch"
    message = (
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
    )


def install() -> None:
    """Make moto's RunInstances remember its client tokens, and DescribeInstances find them."""
    around(InstanceResponse, "run_instances", _remembering)
    filter_dict_attribute_mapping["client-token"] = "client_token"


def _remembering(run_instances: Callable[..., ActionResult]) -> Callable[..., ActionResult]:
    lock = threading.Lock()
    answers: dict[tuple[str, str, str], tuple[str, ActionResult]] = {}

    @functools.wraps(run_instances)
    def idempotent(response: Any) -> ActionResult:
        token = response._get_param("ClientToken")
        if not token or response._get_param("DryRun", False):
            return run_instances(response)
        key = (response.current_account, response.region, str(token))
        asked = _fingerprint(response.data)
        with lock:
            if key not in answers:
                answers[key] = (asked, run_instances(response))
            first_asked, answer = answers[key]
        if asked != first_asked:
            raise IdempotentParameterMismatch()
        return answer

    return idempotent


def _fingerprint(parameters: dict[str, Any]) -> str:
    return repr(sorted((name, value) for name, value in parameters.items() if name not in _NOT_PARAMETERS))
