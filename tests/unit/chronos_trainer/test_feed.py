"""Batches drawn ahead are those that would be drawn at their step."""

from __future__ import annotations

import threading

import pytest
import torch

from chronos_ec2.errors import DataInvalid
from chronos_ec2.instance.trainers.chronos.feed import AHEAD, Feed
from chronos_ec2.instance.trainers.chronos.windows import Batch


def batch(step: int) -> Batch:
    rows = torch.full((1, 1), float(step))
    return Batch(rows, rows, None)


def test_every_step_has_its_batch_and_few_lie_ready() -> None:
    drawn: list[int] = []
    enough = threading.Event()

    def draw(step: int) -> Batch:
        drawn.append(step)
        if len(drawn) == AHEAD:
            enough.set()
        return batch(step)

    with Feed(draw, 3, 20) as feed:
        assert enough.wait(60), "it draws before it is asked"
        assert drawn == [3, 4, 5, 6]
        assert [float(feed.take().context) for _ in range(3, 21)] == [float(step) for step in range(3, 21)]
    assert drawn == list(range(3, 21)), "each once, in order"


def test_what_goes_wrong_is_told_at_its_step() -> None:
    def draw(step: int) -> Batch:
        if step == 3:
            raise DataInvalid("step 3: nothing")
        return batch(step)

    with Feed(draw, 1, 9) as feed:
        assert float(feed.take().target) == 1
        assert float(feed.take().target) == 2
        with pytest.raises(DataInvalid, match="step 3"):
            feed.take()


def test_its_thread_ends_with_it_whatever_happens() -> None:
    with pytest.raises(KeyError), Feed(batch, 1, 10**9):
        raise KeyError
    assert not any(thread.name.startswith("feed") for thread in threading.enumerate())


def test_after_the_last_step_there_is_none() -> None:
    with Feed(batch, 5, 4):
        pass
