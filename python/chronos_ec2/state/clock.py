"""UTC times as the state file writes them: `2025-01-15T14:30:22Z`."""

from __future__ import annotations

from datetime import UTC, datetime

FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def utc_now() -> datetime:
    """The wall clock, in UTC, aware."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Write an aware time in UTC with seconds."""
    return moment.astimezone(UTC).strftime(FORMAT)


def to_milliseconds(moment: datetime) -> str:
    """Write an aware time in UTC with milliseconds, `2025-01-15T14:30:22.125Z`, as timelines have it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def from_milliseconds(text: str) -> datetime:
    """Read what `to_milliseconds` wrote.

    Raises:
        ValueError: the text has another form.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def from_text(text: str) -> datetime:
    """Read what `to_text` wrote.

    Raises:
        ValueError: the text has another form.
    """
    return datetime.strptime(text, FORMAT).replace(tzinfo=UTC)
