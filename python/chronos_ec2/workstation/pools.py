"""The launch ladder: every pool of EC2 capacity that a launch may use, in the order in which it tries them.

A pool is one instance type in one subnet, so in one availability zone, in one market. `shell/lib/ladder.sh`
walks the list that this module makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from chronos_ec2.workstation.quotas import Market, quota_of
from chronos_ec2.workstation.settings import Settings

_MARKETS: Final[Mapping[str, tuple[Market, ...]]] = {
    "on-demand": ("on-demand",),
    "spot": ("spot",),
    "spot-then-on-demand": ("spot", "on-demand"),
}


def ladder_markets(settings: Settings) -> tuple[Market, ...]:
    """The markets that a launch may use, in the order in which it tries them."""
    return _MARKETS[settings.market]


def ladder(settings: Settings, run_id: str, subnets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pools of a launch: markets, in each the instance types, in each the subnets.

    So a spot launch leaves spot only when no type has it in any zone, and another type is taken only when the
    one before it is nowhere to be had.

    Args:
        subnets: `{"subnet_id", "zone"}` each, in the order of the stack's export; a zone may be None.

    Returns:
        `{"instance_type", "subnet_id", "zone", "market", "client_token", "quota"}` each. The token is that of
        the first attempt; `quota` is the `{"code", "name"}` in Service Quotas, None for a family without one.
    """
    places = list(subnets)
    # A type may stand in both settings, for instance when a flag moves one of the fallbacks to the front.
    types = dict.fromkeys((settings.instance_type, *settings.fallback_instance_types))
    return [
        _pool(run_id, instance_type, place, market)
        for market in ladder_markets(settings)
        for instance_type in types
        for place in places
    ]


def _pool(run_id: str, instance_type: str, place: Mapping[str, Any], market: Market) -> dict[str, Any]:
    quota = quota_of(instance_type, market)
    return {
        "instance_type": instance_type,
        "subnet_id": place["subnet_id"],
        "zone": place["zone"],
        "market": market,
        "client_token": client_token(run_id, instance_type, place["subnet_id"], market),
        "quota": None if quota is None else {"code": quota.code, "name": quota.name},
    }


def client_token(run_id: str, instance_type: str, subnet_id: str, market: str, attempt: int = 1) -> str:
    """RunInstances' idempotency token, the same for the same attempt at a pool; EC2 takes 64 characters.

    `pool_token` in `shell/lib/pool.sh` makes those of later attempts by the same rule.

    Args:
        attempt: 1 more each time EC2 has refused the pool for certain, or has ended its instance at the
            start: a token that was answered so is never asked again.
    """
    pool = "|".join((run_id, instance_type, subnet_id, market, str(attempt)))
    return hashlib.sha256(pool.encode()).hexdigest()[:64]
