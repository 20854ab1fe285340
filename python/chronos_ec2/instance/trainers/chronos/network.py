"""The weights of a Chronos-2 model, in modules named as the library names them, so that files fit both.

The library's own classes come with transformers, whose import takes longer than that of torch: time that an
instance bills before its first step. How the weights are put to work is in lean_model.py.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from chronos_ec2.instance.trainers.chronos.architecture import Architecture
from chronos_ec2.instance.trainers.chronos.layers import ACTIVATIONS, Dropout, RootMeanSquareNorm

_TOKENS: Final = 2
REG_TOKEN: Final = 1
"""The row of `shared` that stands between context and future; row 0 is padding."""


class Linear(nn.Linear):
    """A product whose weights are anything until somebody fills them in."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Embedding(nn.Embedding):
    """Rows whose weights are anything until somebody fills them in."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Network(nn.Module):
    """All weights of a model; what stands in them is anything until somebody fills them in.

    Args:
        form: what config.json says of it.
    """

    quantiles: Tensor

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.form = form
        self.longest_context = form.context_length
        """The longest that it has learned with; a shorter one of a fine-tuning leaves it as it is."""
        self.shared = Embedding(_TOKENS, form.d_model)
        self.input_patch_embedding = ResidualBlock(3 * form.patch, form.d_model, form)
        self.encoder = Encoder(form)
        out = len(form.quantiles) * form.patch
        self.output_patch_embedding = ResidualBlock(form.d_model, out, form)
        self.register_buffer("quantiles", torch.tensor(form.quantiles, device="cpu"), persistent=False)


class Encoder(nn.Module):
    """Layers, one behind the other."""

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.block = nn.ModuleList([Block(form) for _ in range(form.num_layers)])
        self.final_layer_norm = RootMeanSquareNorm(form.d_model, form.layer_norm_epsilon)
        self.dropout = Dropout(form.dropout_rate)


class Block(nn.Module):
    """One layer: attention along time, attention across the series of a group, and a feed-forward network."""

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(form), AttentionLayer(form), FeedForwardLayer(form)])


class AttentionLayer(nn.Module):
    """Attention behind a norm."""

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.self_attention = Attention(form)
        self.layer_norm = RootMeanSquareNorm(form.d_model, form.layer_norm_epsilon)
        self.dropout = Dropout(form.dropout_rate)


class Attention(nn.Module):
    """The four products of attention with many heads."""

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.heads, self.width, self.dropout = form.num_heads, form.d_kv, form.dropout_rate
        inner = form.num_heads * form.d_kv
        self.q = Linear(form.d_model, inner, bias=False)
        self.k = Linear(form.d_model, inner, bias=False)
        self.v = Linear(form.d_model, inner, bias=False)
        self.o = Linear(inner, form.d_model, bias=False)


class FeedForwardLayer(nn.Module):
    """Two products behind a norm."""

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.mlp = FeedForward(form)
        self.layer_norm = RootMeanSquareNorm(form.d_model, form.layer_norm_epsilon)
        self.dropout = Dropout(form.dropout_rate)


class FeedForward(nn.Module):
    """The two products."""

    def __init__(self, form: Architecture) -> None:
        super().__init__()
        self.wi = Linear(form.d_model, form.d_ff, bias=False)
        self.wo = Linear(form.d_ff, form.d_model, bias=False)
        self.dropout = Dropout(form.dropout_rate)
        self.act = ACTIVATIONS[form.activation]()

    def forward(self, states: Tensor) -> Tensor:
        """States `[…, d_model]` to the same shape."""
        found: Tensor = self.wo(self.dropout(self.act(self.wi(states))))
        return found


class ResidualBlock(nn.Module):
    """Into the network's states, and out of them."""

    def __init__(self, width: int, out: int, form: Architecture) -> None:
        super().__init__()
        self.dropout = Dropout(form.dropout_rate)
        self.hidden_layer = Linear(width, form.d_ff)
        self.act = ACTIVATIONS[form.activation]()
        self.output_layer = Linear(form.d_ff, out)
        self.residual_layer = Linear(width, out)

    def forward(self, values: Tensor) -> Tensor:
        """Values `[…, width]` to `[…, out]`."""
        made: Tensor = self.dropout(self.output_layer(self.act(self.hidden_layer(values))))
        return made + self.residual_layer(values)
