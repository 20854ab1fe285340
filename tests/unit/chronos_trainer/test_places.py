"""Patches that nobody has a value in are left out, and everything else finds back to its place."""

from __future__ import annotations

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from chronos_ec2.instance.trainers.chronos.lean_model import LeanChronos2
from chronos_ec2.instance.trainers.chronos.model import random_model
from chronos_ec2.instance.trainers.chronos.places import Places
from chronos_ec2.training_settings import ChronosConfig

from .conftest import SMALL

FILLED = torch.tensor(
    [[0, 0, 1, 1, 1], [0, 1, 0, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 1, 1]], dtype=torch.float32
)
"""Of four series, two groups: the first begins late, the second has a hole."""


def rows(width: int = 3) -> Tensor:
    """A number of its own for everything that is filled."""
    return torch.arange(1.0, 4 * 5 * width + 1).view(4, 5, width) * FILLED[..., None]


@pytest.mark.parametrize(("group_size", "states"), [(1, 12), (2, 8), (4, 5)])
def test_a_place_is_left_out_that_no_series_of_the_group_has(group_size: int, states: int) -> None:
    places = Places(FILLED, group_size)
    assert places.take(rows()).shape == (states, group_size, 3)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_rows_come_back_as_they_were(group_size: int) -> None:
    places = Places(FILLED, group_size)
    assert torch.equal(places.spread(places.take(rows())), rows())


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_the_last_of_each_group(group_size: int) -> None:
    places = Places(FILLED, group_size)
    ahead = Places(FILLED[:, -2:], group_size)
    assert torch.equal(ahead.spread(places.last(places.take(rows()), 2)), rows()[:, -2:])
    assert torch.equal(places.last(places.take(rows()), 5), places.take(rows()))


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_all_are_kept_for_a_compiler(group_size: int) -> None:
    with patch("torch.compiler.is_compiling", return_value=True):
        places = Places(FILLED, group_size)
    states = places.take(rows())
    assert states.shape == (20 // group_size, group_size, 3)
    assert torch.equal(places.spread(states), rows())
    assert torch.equal(places.last(states, 2), Places(FILLED[:, -2:], group_size).take(rows()[:, -2:]))


@pytest.mark.parametrize("group_size", [1, 3])
def test_loss_and_gradients_are_the_same_with_all_places(group_size: int) -> None:
    lean = LeanChronos2(random_model(ChronosConfig(**SMALL)).eval(), group_size, 1)
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(4 * group_size, 48, generator=generator)
    target = torch.randn(4 * group_size, 8, generator=generator)
    context[:group_size, :32] = torch.nan
    context[-1] = torch.nan
    found = []
    for all_of_them in (False, True):
        lean.zero_grad()
        with patch("torch.compiler.is_compiling", return_value=True) if all_of_them else nullcontext():
            loss = lean(context, target)
        loss.backward()
        gradients = {name: part.grad for name, part in lean.named_parameters() if part.requires_grad}
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
