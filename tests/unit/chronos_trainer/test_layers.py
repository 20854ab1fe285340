"""The cheap layers do what torch's do."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from chronos_ec2.instance.trainers.chronos.layers import Dropout, RootMeanSquareNorm


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_dropout_takes_its_share_and_keeps_the_mean(rate: float) -> None:
    dropout = Dropout(rate)
    states = torch.ones(7, 101, 301, requires_grad=True)
    torch.manual_seed(3)
    found = dropout(states)
    assert float((found == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    if rate < 1:
        assert float(found.detach().mean()) == pytest.approx(1.0, abs=0.01)
    found.sum().backward()
    torch.testing.assert_close(states.grad, found.detach())
    torch.manual_seed(3)
    assert torch.equal(dropout(states), found), "a function of the seed alone"
    assert dropout.eval()(states) is states


def test_the_norm_and_its_gradient_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    norm = RootMeanSquareNorm(8, 1e-6)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
    ours = torch.randn(3, 5, 8, generator=generator, requires_grad=True)
    theirs, weight = (part.detach().clone().requires_grad_() for part in (ours, norm.weight))
    found, expected = norm(ours), functional.rms_norm(theirs, (8,), weight, 1e-6)
    torch.testing.assert_close(found, expected)
    for one in (found, expected):
        one.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.weight.grad, weight.grad)
