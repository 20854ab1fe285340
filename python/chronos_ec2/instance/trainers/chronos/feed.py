"""Draws the batches of the next steps in the background, so that a GPU never waits for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final

from chronos_ec2.instance.trainers.chronos.windows import Batch

AHEAD: Final = 4
"""Batches that lie ready: enough for a step that takes far less than its neighbours, little memory."""


class Feed:
    """The batches of a training, one step after the other.

    A batch depends on its step alone, so that how far it is drawn ahead changes nothing.

    Args:
        draw: makes the batch of a step; called in one thread, in the order of the steps.
        first, last: the steps to draw.
    """

    def __init__(self, draw: Callable[[int], Batch], first: int, last: int) -> None:
        self._draw, self._next, self._last = draw, first, last
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ready: deque[Future[Batch]] = deque()
        self._refill()

    def take(self) -> Batch:
        """The batch of the next step.

        Raises:
            DataInvalid: as `Windows.draw`; the steps before it have had their batch.
        """
        batch = self._ready.popleft().result()
        self._refill()
        return batch

    def _refill(self) -> None:
        while len(self._ready) < AHEAD and self._next <= self._last:
            self._ready.append(self._thread.submit(self._draw, self._next))
            self._next += 1

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
