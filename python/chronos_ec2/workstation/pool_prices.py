"""The price of one pool of a launch, in the form that the run's record keeps."""

from __future__ import annotations

import math
from typing import Any, Final

from chronos_ec2.workstation.prices import OTHERS, Prices
from chronos_ec2.workstation.prices_cache import Rate
from chronos_ec2.workstation.settings import Settings

PART_BYTES: Final = 8 * 1024 * 1024
"""Downloads are cut into parts of this size, one GET each."""
FIXED_PUTS: Final = 60
FIXED_GETS: Final = 150
"""What a run makes however long it lasts: the states and records of its phases, scripts, config, results."""


def request_rates(settings: Settings, download_bytes: int = 0) -> dict[str, float]:
    """How many S3 requests a run makes that nobody has counted.

    Each `heartbeat_seconds` the trainer's heartbeat reads the state, stages and publishes a new one (GET,
    PUT, COPY), the watch for a kill reads it (GET), and the sampler sends what it has measured (PUT); each
    `log_upload_seconds` the log is uploaded at most once (PUT). Deletions are free.

    Args:
        download_bytes: the training environment's and the data's.
    """
    beats, logs = 3600 / settings.heartbeat_seconds, 3600 / settings.log_upload_seconds
    return {
        "put_once": FIXED_PUTS,
        "put_per_hour": round(3 * beats + logs, 3),
        "get_once": FIXED_GETS + math.ceil(download_bytes / PART_BYTES),
        "get_per_hour": round(2 * beats, 3),
    }


def price_of_pool(
    prices: Prices,
    settings: Settings,
    instance_type: str,
    market: str,
    zone: str | None = None,
    *,
    download_bytes: int = 0,
) -> dict[str, Any]:
    """The record's `price` for a pool.

    It is that of all machines of the run together: `nodes` times one. A rate that nobody knows is None. Of a
    spot pool `compute_cap_usd_per_hour` says what it may rise to: `spot_max_price`, else EC2's own cap, the
    on-demand price. A spot price that is not known is that cap.

    Args:
        zone: the pool's availability zone; None: the dearest one counts.
    """
    compute = prices.rates.get(f"compute:{instance_type}")
    cap: float | None = None
    if market == "spot":
        limit = float(settings.spot_max_price) if settings.spot_max_price else None
        cap = limit if limit is not None else (compute.usd if compute else None)
        setting = Rate(limit, "spot_max_price", "") if limit is not None else None
        compute = prices.spot(instance_type, zone) or setting or compute
    nodes = settings.nodes
    rates = request_rates(settings, download_bytes)
    used = [rate for rate in (compute, *map(prices.rates.get, OTHERS)) if rate is not None]
    return {
        "instance_type": instance_type,
        "market": market,
        "region": prices.region,
        **({"nodes": nodes} if nodes > 1 else {}),
        "compute_usd_per_hour": _times(nodes, compute.usd if compute else None),
        "compute_cap_usd_per_hour": _times(nodes, cap),
        "disk_usd_per_gb_month": prices.usd("disk"),
        "disk_gb": nodes * settings.volume_gb,
        "address_usd_per_hour": _times(nodes, prices.usd("address")),
        "put_usd_per_1000": prices.usd("put"),
        "get_usd_per_1000": prices.usd("get"),
        "request_rates": {name: nodes * rate for name, rate in rates.items()},
        "source": "; ".join(dict.fromkeys(rate.source for rate in used)) or "not known",
        "as_of": min((rate.as_of for rate in used if rate.as_of), default=None),
    }


def _times(nodes: int, usd: float | None) -> float | None:
    return None if usd is None else nodes * usd
