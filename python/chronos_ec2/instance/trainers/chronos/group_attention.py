"""Chronos-2's attention across the series of a group, without the other groups.

The library lets every series of a batch attend to every other and masks those of other groups: work and
memory grow with the square of the batch. Here all groups have one size and stand behind each other, so each
attends within its own block. What is masked out there weighs exactly zero, so the forecasts are the same; the
states of patches without any value differ, and nothing ever looks at those.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from chronos.chronos2.layers import AttentionOutput, GroupSelfAttention
from chronos.chronos2.model import Chronos2Model
from torch import Tensor
from torch.nn import functional


def attend_in_blocks(model: Chronos2Model, group_size: int) -> None:
    """Make a model attend within blocks of its batch.

    With a group of one, queries and keys have no effect: they are frozen, as their gradient is zero.

    Args:
        model: it is changed, its weights are not.
        group_size: series a group; series `k * size` to `(k + 1) * size - 1` of a batch are one.
    """
    encoder: Any = model.encoder
    encoder._construct_and_invert_group_time_mask = _keep_mask
    for block in encoder.block:
        layer: GroupSelfAttention = block.layer[1]
        layer.forward = MethodType(_alone if group_size == 1 else _within(group_size), layer)
        if group_size == 1:
            layer.self_attention.q.weight.requires_grad_(False)
            layer.self_attention.k.weight.requires_grad_(False)


def _keep_mask(group_ids: Tensor, attention_mask: Tensor, floating_type: torch.dtype) -> Tensor:
    """Hand on the mask over patches, shape [batch, patches], instead of one over all pairs of series."""
    return attention_mask


def _alone(
    self: GroupSelfAttention, hidden_states: Tensor, attention_mask: Tensor, output_attentions: bool = False
) -> AttentionOutput:
    """A series that attends to itself alone takes its own value, with weight one."""
    attention = self.self_attention
    values = attention.v(self.layer_norm(hidden_states))
    if self.training and attention.dropout > 0:
        weights = values.new_ones(*values.shape[:2], attention.n_heads, 1)
        kept = functional.dropout(weights, attention.dropout)
        values = (values.unflatten(-1, (attention.n_heads, -1)) * kept).flatten(-2)
    return AttentionOutput(hidden_states=hidden_states + self.dropout(attention.o(values)))


def _within(size: int) -> Any:
    def forward(
        self: GroupSelfAttention,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
    ) -> AttentionOutput:
        attention = self.self_attention
        batch, patches, _ = hidden_states.shape

        def heads(states: Tensor) -> Tensor:
            """[batch, patches, inner] to [groups, patches, heads, size, d_kv]."""
            blocks = states.reshape(batch // size, size, patches, attention.n_heads, attention.kv_proj_dim)
            return blocks.permute(0, 2, 3, 1, 4)

        normed = self.layer_norm(hidden_states)
        seen = attention_mask.to(normed.dtype).reshape(batch // size, size, patches).permute(0, 2, 1)
        mask = (1.0 - seen) * torch.finfo(normed.dtype).min
        mixed = functional.scaled_dot_product_attention(
            heads(attention.q(normed)),
            heads(attention.k(normed)),
            heads(attention.v(normed)),
            attn_mask=mask[:, :, None, None, :],
            dropout_p=attention.dropout if self.training else 0.0,
            scale=1.0,
        )
        joined = mixed.permute(0, 3, 1, 2, 4).reshape(batch, patches, -1)
        return AttentionOutput(hidden_states=hidden_states + self.dropout(attention.o(joined)))

    return forward
