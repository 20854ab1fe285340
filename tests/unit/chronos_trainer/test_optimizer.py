"""AdamW in one pass, beside torch's own class and its own bound on the norm."""

from __future__ import annotations

import pytest
import torch

from chronos_ec2.instance.trainers.chronos.optimizer import AdamW

RATES = (0.1, 0.05, 0.2, 0.1)


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((3, 4), (5,))]


def give_gradients(to: list[torch.Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in to:
        weight.grad = 4 * torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("greatest", [0.0, 1.0, 1000.0])
def test_it_learns_what_torch_learns(greatest: float) -> None:
    ours, theirs = weights(), weights()
    mine, other = AdamW(ours, 0.1, greatest), torch.optim.AdamW(theirs, weight_decay=0.1, fused=True)
    for step, rate in enumerate(RATES):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        expected = torch.nn.utils.clip_grad_norm_(theirs, greatest or float("inf"))
        other.param_groups[0]["lr"] = rate
        other.step()
        assert torch.equal(mine.step(rate), expected)
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_state_goes_on_as_if_it_had_never_been_put_away() -> None:
    whole, parts = weights(), weights()
    one, two = AdamW(whole, 0.1, 1.0), AdamW(parts, 0.1, 1.0)
    for step, rate in enumerate(RATES):
        if step == 2:
            stored, two = two.state_dict(), AdamW(parts, 0.1, 1.0)
            two.load_state_dict(stored)
        for them, optimizer in ((whole, one), (parts, two)):
            give_gradients(them, step)
            optimizer.step(rate)
    assert all(torch.equal(left, right) for left, right in zip(whole, parts, strict=True))


def test_a_state_that_torch_has_saved_is_read() -> None:
    ours, theirs = weights(), weights()
    other = torch.optim.AdamW(theirs, fused=True)
    give_gradients(theirs, 1)
    other.step()
    mine = AdamW(ours, 0.0, 1.0)
    mine.load_state_dict(other.state_dict())
    torch.testing.assert_close(mine.state_dict()["state"], other.state_dict()["state"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: None, "another number of weights"),
        (lambda state: {"state": {0: state["state"][0]}}, "another number of weights"),
        (lambda state: {"state": {0: state["state"][1], 1: state["state"][0]}}, "exp_avg that fits weight 0"),
        (lambda state: {"state": {0: {}, 1: {}}}, "has no step"),
    ],
    ids=["none", "a weight less", "other shapes", "nothing in it"],
)
def test_a_state_of_other_weights_is_refused(spoil: object, says: str) -> None:
    mine = AdamW(weights(), 0.0, 1.0)
    assert callable(spoil)
    with pytest.raises(ValueError, match=says):
        mine.load_state_dict(spoil(mine.state_dict()))
