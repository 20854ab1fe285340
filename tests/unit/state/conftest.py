from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chronos_ec2.state.store import StateStore

from .fakes import BUCKET, MemoryS3


class Clock:
    """A time that only sleep moves, and how long each sleep was."""

    def __init__(self) -> None:
        self.time = datetime(2025, 1, 15, 15, 0, tzinfo=UTC)
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def s3() -> MemoryS3:
    return MemoryS3()


@pytest.fixture
def open_store(clock: Clock) -> Callable[..., StateStore]:
    """Make a store whose sleeps take no time and whose jitter is as long as it can be."""

    def make(client: Any, environment: str = "dev", jitter: float = 1.0) -> StateStore:
        return StateStore(
            client, BUCKET, environment, now=clock.now, sleep=clock.sleep, jitter=lambda: jitter
        )

    return make


@pytest.fixture
def store(s3: MemoryS3, open_store: Callable[..., StateStore]) -> StateStore:
    return open_store(s3)
