"""Chronos-2's encoder without the work that nothing looks at; loss, gradients and forecasts are the same.

Across series: the library lets every series of a batch attend to every other and masks those of other groups,
so work and memory grow with the square of the batch. Here all groups have one size and stand behind each
other, so each attends within its own block. What is masked out there weighs exactly zero; only the states of
patches without any value differ, and those are looked at by nobody.

Along time: of the last layer's states only those of the patches to forecast are used, so only those are made.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from chronos.chronos2.layers import (
    AttentionOutput,
    Chronos2LayerNorm,
    Chronos2RotaryEmbedding,
    GroupSelfAttention,
)
from chronos.chronos2.model import Chronos2EncoderBlock, Chronos2EncoderBlockOutput, Chronos2Model
from torch import Tensor
from torch.nn import functional


def make_lean(model: Chronos2Model, group_size: int, output_patches: int) -> None:
    """Make a model's encoder lean, for training and forecasts with these sizes alone.

    With a group of one, queries and keys across series have no effect: frozen, as their gradient is zero.

    Args:
        model: it is changed, its weights are not.
        group_size: series a group; series `k * size` to `(k + 1) * size - 1` of a batch are one.
        output_patches: patches that are forecast in every call.
    """
    encoder: Any = model.encoder
    encoder._construct_and_invert_group_time_mask = _keep_mask
    for module in encoder.modules():
        if isinstance(module, Chronos2LayerNorm):
            module.forward = MethodType(_norm, module)
    for block in encoder.block:
        layer: GroupSelfAttention = block.layer[1]
        layer.forward = MethodType(_alone if group_size == 1 else _within(group_size), layer)
        if group_size == 1:
            layer.self_attention.q.weight.requires_grad_(False)
            layer.self_attention.k.weight.requires_grad_(False)
    last = encoder.block[-1]
    last.forward = MethodType(_last(output_patches), last)


def _norm(self: Chronos2LayerNorm, hidden_states: Tensor) -> Tensor:
    """The same norm in one step."""
    return functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


def _keep_mask(group_ids: Tensor, attention_mask: Tensor, floating_type: torch.dtype) -> Tensor:
    """Hand on the mask over patches, shape [batch, patches], instead of one over all pairs of series."""
    return attention_mask


def _last(count: int) -> Any:
    """The last layer, for the last `count` patches; those before them are zero."""

    def forward(
        self: Chronos2EncoderBlock,
        hidden_states: Tensor,
        *,
        position_ids: Tensor,
        attention_mask: Tensor,
        group_time_mask: Tensor,
        output_attentions: bool = False,
    ) -> Chronos2EncoderBlockOutput:
        time, group, feed_forward = self.layer
        attention = time.self_attention
        normed = time.layer_norm(hidden_states)

        def heads(states: Tensor) -> Tensor:
            """[batch, patches, inner] to [batch, heads, patches, d_kv]."""
            return states.unflatten(-1, (attention.n_heads, attention.kv_proj_dim)).transpose(1, 2)

        values = heads(attention.v(normed))
        cos, sin = (part.unsqueeze(1) for part in attention.rope_embed(values, position_ids))
        queries = _turned(heads(attention.q(normed[:, -count:])), cos[:, :, -count:], sin[:, :, -count:])
        keys = _turned(heads(attention.k(normed)), cos, sin)
        dropped = attention.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=attention_mask, dropout_p=dropped, scale=1.0
        )
        states = hidden_states[:, -count:] + time.dropout(attention.o(mixed.transpose(1, 2).flatten(2)))
        states = group(states, attention_mask=group_time_mask[:, -count:])[0]
        states = feed_forward(states)
        before = states.new_zeros(states.shape[0], hidden_states.shape[1] - count, states.shape[2])
        return Chronos2EncoderBlockOutput(hidden_states=torch.cat([before, states], dim=1))

    return forward


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding."""
    return states * cos + Chronos2RotaryEmbedding.rotate_half(states) * sin


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
