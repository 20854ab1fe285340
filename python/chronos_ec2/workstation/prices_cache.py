"""What AWS has said of prices, kept for a day, so that not every launch asks again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from chronos_ec2.state.clock import from_text, to_text, utc_now
from chronos_ec2.workstation.aws import local_home
from chronos_ec2.workstation.settings import REPOSITORY, Settings

LIST_PRICE_AGE: Final = timedelta(days=1)
SPOT_PRICE_AGE: Final = timedelta(hours=1)
"""Spot prices move within hours, list prices within years."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A price in US dollars, where it comes from, and from when it is (a time or a day, ISO 8601)."""

    usd: float
    source: str
    as_of: str


def cache_file(settings: Settings, variables: Mapping[str, str] = os.environ) -> Path:
    """Where the answers of this environment's AWS are kept: one file a region and endpoint."""
    endpoint = "" if settings.embedded else variables.get("AWS_ENDPOINT_URL", "")
    name = f"{settings.region}.json"
    if endpoint:
        name = f"{settings.region}-{hashlib.sha256(endpoint.encode()).hexdigest()[:12]}.json"
    folder = variables.get("CHRONOS_PRICES_HOME")
    if folder:
        return Path(folder) / name
    home = local_home(variables) if settings.embedded else REPOSITORY / ".chronos"
    return home / "prices" / name


class PriceCache:
    """A file of rates by name. A file that cannot be read is none, one that cannot be written is not kept."""

    def __init__(self, file: Path, now: Callable[[], datetime] = utc_now) -> None:
        self._file = file
        self._now = now

    def fresh(self) -> dict[str, Rate]:
        """The rates that are young enough to stand for an answer of now."""
        return {name: rate for name, rate in self._read().items() if self._is_fresh(name, rate)}

    def keep(self, rates: Mapping[str, Rate]) -> None:
        """Add rates; what is too old goes."""
        kept = {**self.fresh(), **rates}
        body = {
            name: {"usd": rate.usd, "source": rate.source, "as_of": rate.as_of} for name, rate in kept.items()
        }
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            staged = self._file.with_suffix(f".{os.getpid()}.tmp")
            staged.write_text(json.dumps(body, indent=2) + "\n")
            staged.replace(self._file)

    def stamp(self) -> str:
        """The present, as `as_of` of an answer that has just come."""
        return to_text(self._now())

    def _read(self) -> dict[str, Rate]:
        try:
            body = json.loads(self._file.read_text())
            rates = {
                str(name): Rate(float(rate["usd"]), str(rate["source"]), str(rate["as_of"]))
                for name, rate in body.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            return {}
        return {name: rate for name, rate in rates.items() if 0 < rate.usd < math.inf}

    def _is_fresh(self, name: str, rate: Rate) -> bool:
        try:
            age = self._now() - from_text(rate.as_of)
        except ValueError:
            return False
        limit = SPOT_PRICE_AGE if name.startswith("spot:") else LIST_PRICE_AGE
        return timedelta(minutes=-5) <= age < limit
