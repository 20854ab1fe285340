"""The present as AWS tells it: where the laptop's own clock is off, every age that it computes would be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from chronos_ec2.state.clock import utc_now

NOT_WORTH_IT: Final = timedelta(seconds=3)
"""The header has whole seconds, and the answer was on its way for a while."""


def date_of(answer: Mapping[str, Any]) -> datetime | None:
    """When AWS wrote an answer, by its Date header; None where it does not say."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return None if text is None else parsedate_to_datetime(text).astimezone(UTC)
    except (TypeError, ValueError):
        return None


class AwsClock:
    """A clock that each answer of a client sets right; before the first one it is the laptop's.

    Args:
        client: a boto3 client.
        now: the laptop's clock.
    """

    def __init__(self, client: Any, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._ahead = timedelta(0)
        client.meta.events.register("after-call", self._heed)

    def __call__(self) -> datetime:
        """The present, in UTC, aware."""
        return self._now() + self._ahead

    def _heed(self, parsed: Mapping[str, Any], **_: Any) -> None:
        date = date_of(parsed)
        if date is not None:
            ahead = date - self._now()
            self._ahead = timedelta(0) if abs(ahead) < NOT_WORTH_IT else ahead
