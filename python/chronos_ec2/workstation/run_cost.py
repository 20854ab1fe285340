"""What a run has cost in US dollars, from its own record: the twin of `shell/lib/run_cost.jq`.

The instance writes the cost of a run that ended by itself; this module writes that of a lost one and shows
what a run that goes on has cost so far. Both compute step by step in the same order, so they agree to the
last digit; one table of examples is run through both.

EC2 bills an instance by the second, 60 at least, from launch to termination. A GB of gp3 is billed for a
month of 720 hours, as in AWS's own examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from chronos_ec2.state.clock import from_text, to_text
from chronos_ec2.words import money_text

PARTS: Final = ("compute", "disk", "requests", "address")
LEAST_SECONDS: Final = 60
MONTH_HOURS: Final = 720
_LARGEST: Final = 10**12
SWITCH_MARGIN_SECONDS: Final = 300
"""How long after its deadline the switch outside the instance ends it at the latest."""


def with_cost(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record with `cost_usd`; without an end, or without prices, as it is.

    `cost_usd` has the parts, `total` and the billed `seconds`; a part whose price is not known is None, and
    so is the total then. It is None as a whole where nobody knows whether there was a machine. `at_most` says
    that the machine's end was not seen.
    """
    if record.get("ended_at") is None or not isinstance(record.get("price"), dict):
        return dict(record)
    return {**record, "cost_usd": _cost(record)}


def cost_until(
    record: Mapping[str, Any], moment: datetime, instance_id: str | None = None
) -> dict[str, Any] | None:
    """What a run that goes on costs up to a moment; None where that is not known.

    Args:
        instance_id: its machine by the state file, which names it first; a run without one costs nothing.
    """
    cost = with_cost(_as_if_ended(record, moment, instance_id)).get("cost_usd")
    return cost if isinstance(cost, dict) else None


def billed_until(record: Mapping[str, Any], moment: datetime) -> int | None:
    """The seconds that EC2 bills of a run, of one that goes on up to a moment; None where nobody knows."""
    return billed_seconds(record if record.get("ended_at") is not None else _as_if_ended(record, moment))


def _as_if_ended(
    record: Mapping[str, Any], moment: datetime, instance_id: str | None = None
) -> dict[str, Any]:
    machine = _object(record.get("instance"))
    named = {"instance": {**machine, "id": machine.get("id") or instance_id}}
    return {**record, **named, "ended_at": to_text(moment), "outcome": "running"}


def total_of(cost: object) -> float | None:
    """The total of a `cost_usd`, in US dollars; None where that is not known."""
    return number_of(_object(cost).get("total"))


def cost_of(price: Mapping[str, Any], seconds: int, requests: object = None) -> dict[str, Any]:
    """What so many billed seconds cost.

    Args:
        price: as in a run's record.
        requests: the counts `put` and `get`; a count that is missing is estimated from the price's rates.
    """
    hours = seconds / 3600
    gb_price = _product(number_of(price.get("disk_gb")), number_of(price.get("disk_usd_per_gb_month")))
    parts = {
        "compute": _product(number_of(price.get("compute_usd_per_hour")), hours),
        "disk": None if gb_price is None else gb_price / MONTH_HOURS * hours,
        "requests": _request_cost(price, requests, hours),
        "address": _product(number_of(price.get("address_usd_per_hour")), hours),
    }
    known = {name: None if part is None else rounded(part) for name, part in parts.items()}
    total = _sum(_sum(_sum(known["compute"], known["disk"]), known["requests"]), known["address"])
    return {**known, "total": None if total is None else rounded(total), "seconds": seconds}


def cost_text(cost: Mapping[str, Any] | None) -> str | None:
    """A cost in words, `$4.62` or `at most $4.62`; None for a run of which nothing is known."""
    if cost is None:
        return None
    total = total_of(cost)
    return f"at most {money_text(total)}" if cost.get("at_most") and total is not None else money_text(total)


def cost_parts_text(cost: Mapping[str, Any] | None) -> str | None:
    """A cost with its parts: `$1.54 (compute $1.50, disk $0.02, requests $0.01, address $0.01)`."""
    if cost is None:
        return None
    parts = ", ".join(f"{name} {money_text(number_of(cost.get(name)))}" for name in PARTS)
    return f"{cost_text(cost)} ({parts})"


def number_of(value: object) -> float | None:
    """A number that can be reckoned with; None for what is none, endless, or beyond any price or count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return None
    return value


def rounded(dollars: float) -> float:
    """Millionths of a dollar; halves up, as jq's `round` does for what is not negative."""
    millionths = dollars * 1000000
    whole = math.floor(millionths)
    return (whole + 1 if millionths - whole >= 0.5 else whole) / 1000000


def _cost(record: Mapping[str, Any]) -> dict[str, Any] | None:
    outcome = record.get("outcome")
    if _object(record.get("instance")).get("id") is None:
        waits = outcome == "running" and record.get("launched_at") is None
        if outcome == "launch_failed" or waits:
            return {**dict.fromkeys((*PARTS, "total"), 0), "seconds": 0}
        if outcome in ("lost", "interrupted", "killed"):
            return None
    seconds = billed_seconds(record)
    if seconds is None:
        return None
    unseen = _ended_unheard(record) and record.get("end_seen") is not True
    return {
        **cost_of(record["price"], seconds, record.get("requests")),
        **({"at_most": True} if unseen else {}),
    }


def billed_seconds(record: Mapping[str, Any]) -> int | None:
    """The seconds that EC2 bills of a run that has ended; None where that cannot be told."""
    start = _moment(record.get("launched_at"))
    if start is None:
        start = _moment(record.get("started_at"))
    end, last = _moment(record.get("ended_at")), _last_switch(record)
    if start is None or end is None:
        return None
    if _ended_unheard(record) and last is not None:
        end = min(end, last)
    return max(LEAST_SECONDS, end - start)


def no_later(record: Mapping[str, Any], moment: datetime) -> datetime:
    """A moment, or when the last switch has ended the run's machine, if that was before."""
    last = _last_switch(record)
    return moment if last is None else min(moment, datetime.fromtimestamp(last, UTC))


def _last_switch(record: Mapping[str, Any]) -> int | None:
    deadline = _moment(record.get("deadline"))
    return None if deadline is None else deadline + SWITCH_MARGIN_SECONDS


def _ended_unheard(record: Mapping[str, Any]) -> bool:
    """Whether somebody else found that the machine was gone; an interrupted one mostly says it itself."""
    outcome = record.get("outcome")
    return outcome == "lost" or (outcome == "interrupted" and record.get("exit_code") is None)


def _request_cost(price: Mapping[str, Any], counts: object, hours: float) -> float | None:
    puts = _product(_requests(price, counts, "put", hours), number_of(price.get("put_usd_per_1000")))
    gets = _product(_requests(price, counts, "get", hours), number_of(price.get("get_usd_per_1000")))
    both = _sum(puts, gets)
    return None if both is None else both / 1000


def _requests(price: Mapping[str, Any], counts: object, kind: str, hours: float) -> float | None:
    """What the instance has counted, else what such a run makes by rule (pool_prices.py)."""
    counted = number_of(_object(counts).get(kind))
    if counted is not None:
        return counted
    rates = _object(price.get("request_rates"))
    return _sum(
        number_of(rates.get(f"{kind}_once")), _product(number_of(rates.get(f"{kind}_per_hour")), hours)
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _moment(value: object) -> int | None:
    """Seconds of the epoch; None for what is no time."""
    try:
        return int(from_text(value).timestamp()) if isinstance(value, str) else None
    except ValueError:
        return None


def _product(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left * right


def _sum(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right
