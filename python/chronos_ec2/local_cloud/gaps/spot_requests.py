"""The spot request behind a spot instance.

Real EC2: RunInstances with MarketType=spot makes a spot request first, and its instance names it in
SpotInstanceRequestId. moto marks the instance as spot and leaves the request out. Here the instance has the
request's id; DescribeSpotInstanceRequests still shows those of RequestSpotInstances alone.
"""

from __future__ import annotations

import functools
import secrets
import string
from collections.abc import Callable
from typing import Any, Final

from moto.ec2.models.instances import InstanceBackend
from moto.ec2.utils import filter_dict_attribute_mapping

from chronos_ec2.local_cloud.gaps import around

_ALPHABET: Final = string.ascii_lowercase + string.digits


def install() -> None:
    """Give moto's spot instances a request id, and make both searchable."""
    around(InstanceBackend, "run_instances", _requesting)
    filter_dict_attribute_mapping["instance-lifecycle"] = "lifecycle"
    filter_dict_attribute_mapping["spot-instance-request-id"] = "spot_instance_request_id"


def _requesting(run_instances: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_instances)
    def request_and_run(backend: Any, *args: Any, **kwargs: Any) -> Any:
        reservation = run_instances(backend, *args, **kwargs)
        for instance in reservation.instances:
            spot = instance.lifecycle == "spot"
            instance.spot_instance_request_id = _request_id() if spot else None
        return reservation

    return request_and_run


def _request_id() -> str:
    return "sir-" + "".join(secrets.choice(_ALPHABET) for _ in range(8))
