"""Layers of the network whose steps are fewer or cheaper than those of torch and of the library."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
_LEVELS: Final = 1 << 16
"""Steps of a dropout's rate: what is kept is scaled by the rate as it was rounded, so its mean is exact."""


class Dropout(nn.Dropout):
    """Dropout that costs a CPU half."""

    def forward(self, input: Tensor) -> Tensor:
        """States of any shape, of which a share is zero and the others larger while it trains."""
        return dropped(input, self.p) if self.training and self.p > 0 else input


def dropped(states: Tensor, rate: float) -> Tensor:
    """States of which a share is zero, and the others larger."""
    if states.is_cuda:  # there it is one kernel
        return functional.dropout(states, rate)
    lost, count = min(round(rate * _LEVELS), _LEVELS - 1), states.numel()
    # Drawing is what costs: four numbers of sixteen bits come with each of sixty-four.
    drawn = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), dtype=torch.int64, device=states.device)
    kept = drawn.view(torch.int16)[:count].view(states.shape) >= lost - _LEVELS // 2
    return states * kept.to(states.dtype).mul_(_LEVELS / (_LEVELS - lost))


class RootMeanSquareNorm(nn.Module):
    """T5's layer norm: no bias, no mean; states `[…, size]`."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        """`states / sqrt(mean(states ** 2) + epsilon) * weight`."""
        if states.is_cuda:  # there it is one kernel each way
            return functional.rms_norm(states, self.weight.shape, self.weight, self._epsilon)
        found: Tensor = _RootMeanSquare.apply(states, self.weight, self._epsilon)
        return found


class _RootMeanSquare(torch.autograd.Function):
    """The norm with half of autograd's steps back."""

    @staticmethod
    def forward(context: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        square = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32).square()
        inverse = (square / states.shape[-1] + epsilon).rsqrt()
        normed = states * inverse
        context.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        normed, inverse, weight = context.saved_tensors
        product = gradient * normed
        of_weight = product.flatten(0, -2).sum(dim=0)
        along = torch.mv(product.flatten(0, -2), weight).view_as(inverse) / -weight.numel()
        of_states = torch.addcmul(gradient * weight, normed, along).mul_(inverse)
        return of_states, of_weight, None
