"""Instance profiles of a launch of several machines.

Real EC2: every machine of a launch has the profile that it names. moto gives it to the first one alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from moto.ec2.models.instances import InstanceBackend

from chronos_ec2.local_cloud.gaps import around


def install() -> None:
    """Give the profile to the others too; before the instance host, which boots what it makes."""
    around(InstanceBackend, "run_instances", _given)


def _given(run_instances: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_instances)
    def run_and_give(backend: Any, *args: Any, **kwargs: Any) -> Any:
        reservation = run_instances(backend, *args, **kwargs)
        wanted = {key: kwargs.get(key) for key in ("iam_instance_profile_name", "iam_instance_profile_arn")}
        if any(wanted.values()):
            for instance in reservation.instances[1:]:
                backend.associate_iam_instance_profile(instance_id=instance.id, **wanted)
        return reservation

    return run_and_give
