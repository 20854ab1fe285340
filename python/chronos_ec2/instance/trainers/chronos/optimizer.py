"""AdamW with the gradient's norm bounded, in one pass over the weights.

The kernel is torch's own (`torch.optim.AdamW(fused=True)`; Loshchilov and Hutter 2019, algorithm 2). What is
left out is the class around it: making one imports torch's compiler, which takes as long as torch itself, and
its bound on the norm is another pass over all gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
_NORM_EPSILON: Final = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""
_MOMENTS: Final = ("step", "exp_avg", "exp_avg_sq")


class AdamW:
    """The state of some weights, float32.

    Args:
        weights: what is learned; all have a gradient when `step` is called.
        weight_decay: by which share of the rate a weight shrinks at a step.
        max_grad_norm: the norm that the gradient of all weights is scaled down to; 0 leaves it as it is.
    """

    def __init__(self, weights: Sequence[Tensor], weight_decay: float, max_grad_norm: float) -> None:
        self._weights = list(weights)
        self._weight_decay, self._max_norm = weight_decay, max_grad_norm or math.inf
        self._steps = [torch.zeros((), device=weight.device) for weight in self._weights]
        self._means = [torch.zeros_like(weight) for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]

    def forget_gradients(self) -> None:
        """Drop the gradients, before the next are made."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> Tensor:
        """Learn from the gradients.

        Args:
            rate: the step size.

        Returns:
            The gradients' norm before it was bounded, still on the device.
        """
        gradients = [weight.grad for weight in self._weights]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_add_(self._steps, 1)
        torch._fused_adamw_(
            self._weights,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            lr=rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=self._weight_decay,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=((norm + _NORM_EPSILON) / self._max_norm).clamp(min=1.0),
        )
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The state by the weights' numbers, as `torch.optim` lays it out."""
        rows = zip(self._steps, self._means, self._squares, strict=True)
        return {"state": {number: dict(zip(_MOMENTS, row, strict=True)) for number, row in enumerate(rows)}}

    @torch.no_grad()
    def load_state_dict(self, stored: Any) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is of other weights.
        """
        state = stored.get("state") if isinstance(stored, dict) else None
        if not isinstance(state, dict) or state.keys() != set(range(len(self._weights))):
            raise ValueError("the optimiser's state is of another number of weights")
        for number, mine in enumerate(zip(self._steps, self._means, self._squares, strict=True)):
            for name, tensor in zip(_MOMENTS, mine, strict=True):
                found = state[number].get(name) if isinstance(state[number], dict) else None
                if not isinstance(found, Tensor) or found.shape != tensor.shape:
                    raise ValueError(f"the optimiser's state has no {name} that fits weight {number}")
                tensor.copy_(found)
