"""Chronos-2's forward pass without the work that nothing looks at; its loss and forecasts are the same.

Across series: the library lets every series of a batch attend to every other and masks those of other groups,
so work and memory grow with the square of the batch. Here all groups have one size and stand behind each
other, so each attends within its own block. What is masked out there weighs exactly zero; only the states of
patches without any value differ, and those are looked at by nobody.

Along time: of the last layer's states only those of the patches to forecast are used, so only those are made.
A series that is shorter than the context has patches without any value, which are left out (places.py).

In training, forecasts are not scaled back, as the loss is taken of scaled values. Times and rotations are
computed once, and nothing waits for a GPU. What is cheaper in single layers is in layers.py.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from chronos_ec2.instance.trainers.chronos.architecture import Architecture
from chronos_ec2.instance.trainers.chronos.layers import dropped
from chronos_ec2.instance.trainers.chronos.network import REG_TOKEN, Attention, Block, Network
from chronos_ec2.instance.trainers.chronos.places import Places

LocationAndScale = tuple[Tensor, Tensor]
_LEAST_SCALE: Final = 1e-5
"""Of a context whose values are all the same (chronos_bolt.py, InstanceNorm)."""


class LeanChronos2(nn.Module):
    """A Chronos-2 model for windows of one shape: a view on its weights, which stay where they are.

    With a group of one, queries and keys across series have no effect: frozen, as their gradient is zero.

    Args:
        model: whose weights it uses; its context length is that of every window.
        group_size: series a group; series `k * size` to `(k + 1) * size - 1` of a batch are one.
        output_patches: patches that are forecast in every call.
    """

    def __init__(self, model: Network, group_size: int, output_patches: int) -> None:
        super().__init__()
        self.model, form = model, model.form
        self._group_size, self._ahead = group_size, output_patches
        self._patch, self._stride, self._use_arcsinh = form.patch, form.stride, form.use_arcsinh
        padded = -(-form.context_length // self._patch) * self._patch
        self._padding = padded - form.context_length
        patches = (padded - self._patch) // self._stride + 1
        scale = float(form.time_encoding_scale)
        past = torch.arange(-patches * self._patch, 0).view(1, patches, -1) / scale
        future = torch.arange(output_patches * self._patch).view(1, output_patches, -1) / scale
        cos, sin = _rotations(form, patches + 1 + output_patches)
        for name, value in {"past": past, "future": future, "cos": cos, "sin": sin}.items():
            self.register_buffer(f"_{name}", value, persistent=False)
        if group_size == 1:
            for block in model.encoder.block:
                attention = block.layer[1].self_attention
                attention.q.weight.requires_grad_(False)
                attention.k.weight.requires_grad_(False)

    def forward(self, context: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
        """The training loss: the library's, twice the pinball loss summed over the quantiles.

        Args:
            context: shape [rows, context length]; NaN where nothing is known.
            target: shape [rows, prediction length]; NaN where nothing is to be learned.
            known: known covariates, as `target`; NaN elsewhere.

        Returns:
            A number.
        """
        scaled, loc_scale = self._predict(context, known)
        horizon = target.shape[1]
        wanted = self._scaled(target, loc_scale).unsqueeze(1)
        seen = ~wanted.isnan()
        if known is not None:
            seen &= known.isnan().unsqueeze(1)
        error = torch.where(seen, wanted - scaled[..., :horizon], 0.0)
        levels = self.model.quantiles.view(1, -1, 1)
        pinball = error * (levels - (error < 0).to(error.dtype))
        # The mean is over whole patches, of which what lies behind the horizon counts as met.
        return 2.0 * pinball.sum() / (len(scaled) * scaled.shape[-1])

    def quantiles(self, context: Tensor, known: Tensor | None = None) -> Tensor:
        """Forecasts at all of the model's levels: shape [rows, levels, output patches x patch length]."""
        scaled, loc_scale = self._predict(context, known)
        location, scale = (part.unsqueeze(1) for part in loc_scale)
        values = scaled.float()
        return (values.sinh() if self._use_arcsinh else values) * scale + location

    def _scaled(self, values: Tensor, loc_scale: LocationAndScale) -> Tensor:
        """Values, or NaN, by location and scale: shapes [rows, n] and [rows, 1]."""
        location, scale = loc_scale
        scaled = (values - location) / scale
        return scaled.arcsinh() if self._use_arcsinh else scaled

    def _predict(self, context: Tensor, known: Tensor | None) -> tuple[Tensor, LocationAndScale]:
        """Scaled forecasts, shape [rows, levels, output patches x patch length], and the scale."""
        features, filled, loc_scale = self._context_features(context)
        rows = self._embed(features, filled, self._future_features(known, loc_scale))
        filled = functional.pad(filled, (0, 1 + self._ahead), value=1.0)
        places = Places(filled, self._group_size)
        ahead = Places(filled[:, -self._ahead :], self._group_size)
        encoder = self.model.encoder
        states = encoder.dropout(places.take(rows))
        *inner, last = encoder.block
        for block in inner:
            states = self._layer(block, states, places, places)
        states = self._layer(last, states, places, ahead)
        states = encoder.dropout(encoder.final_layer_norm(states))
        said: Tensor = ahead.spread(self.model.output_patch_embedding(states))
        by_level = said.unflatten(-1, (len(self.model.quantiles), self._patch)).transpose(1, 2)
        return by_level.flatten(2), loc_scale

    def _context_features(self, context: Tensor) -> tuple[Tensor, Tensor, LocationAndScale]:
        """Time, value and mask of each patch; which of them hold anything, as 1 and 0; the scale."""
        loc_scale = _location_and_scale(context)
        context = functional.pad(context, (self._padding, 0), value=torch.nan)
        scaled = self._scaled(context, loc_scale)
        seen = (~context.isnan()).to(scaled.dtype).unfold(-1, self._patch, self._stride)
        values = scaled.nan_to_num(nan=0.0).unfold(-1, self._patch, self._stride)
        features = torch.cat([self._past.expand(len(context), -1, -1), values, seen], dim=-1)
        return features, seen.amax(dim=-1), loc_scale

    def _future_features(self, known: Tensor | None, loc_scale: LocationAndScale) -> Tensor:
        """The same of the patches to forecast; those of all rows are one where no covariate is known."""
        if known is None:
            nothing = torch.zeros_like(self._future)
            return torch.cat([self._future, nothing, nothing], dim=-1)
        scaled = self._scaled(known, loc_scale)
        missing = self._ahead * self._patch - known.shape[1]
        values = functional.pad(scaled.nan_to_num(nan=0.0), (0, missing)).unflatten(-1, (self._ahead, -1))
        seen = functional.pad((~known.isnan()).to(scaled.dtype), (0, missing))
        times = self._future.expand(len(known), -1, -1)
        return torch.cat([times, values, seen.unflatten(-1, (self._ahead, -1))], dim=-1)

    def _embed(self, past: Tensor, filled: Tensor, future: Tensor) -> Tensor:
        """The rows of context patches, the token between, and the patches to forecast."""
        rows, embedding = len(past), self.model.input_patch_embedding
        places = Places(filled, self._group_size)
        embedded = places.spread(embedding(places.take(past)))
        if self.training and embedding.dropout.p > 0:
            future = future.expand(rows, -1, -1)
        token = self.model.shared.weight[REG_TOKEN].expand(rows, 1, -1)
        return torch.cat([embedded, token, embedding(future).expand(rows, -1, -1)], dim=1)

    def _layer(self, block: Block, states: Tensor, places: Places, wanted: Places) -> Tensor:
        """One layer's states of `wanted`, which are all `places` or the last of each group."""
        time, group, feed_forward = block.layer
        mixed = self._along_time(time.self_attention, time.layer_norm(states), places, wanted)
        states = places.last(states, wanted.patches) + time.dropout(mixed)
        normed = group.layer_norm(states)
        if self._group_size == 1:
            mixed = self._alone(group.self_attention, normed)
        else:
            mixed = self._across_series(group.self_attention, normed, wanted.mask_of_states)
        states = states + group.dropout(mixed)
        normed = feed_forward.layer_norm(states)
        return states + feed_forward.dropout(feed_forward.mlp(normed))

    def _along_time(self, attention: Attention, normed: Tensor, places: Places, wanted: Places) -> Tensor:
        split, count = (attention.heads, attention.width), wanted.patches
        queries = wanted.spread(attention.q(places.last(normed, count))).unflatten(-1, split)
        keys, values = (
            places.spread(part(normed)).unflatten(-1, split) for part in (attention.k, attention.v)
        )
        queries = self._turned(queries, self._cos[-count:], self._sin[-count:])
        keys = self._turned(keys, self._cos, self._sin)
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        mixed = self._attend(attention, queries, keys, values, places.mask_of_rows[:, None, None])
        joined: Tensor = attention.o(wanted.take(mixed.transpose(1, 2).flatten(2)))
        return joined

    def _attend(
        self, attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> Tensor:
        return functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask.to(values.dtype),
            dropout_p=attention.dropout if self.training else 0.0,
            scale=1.0,
        )

    def _turned(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary position embedding of states [rows, patches, …, d_kv]; `sin` has the sign of each half."""
        other = states.roll(states.shape[-1] // 2, dims=-1)
        return torch.addcmul(states * cos.to(states.dtype), other, sin.to(states.dtype))

    def _alone(self, attention: Attention, normed: Tensor) -> Tensor:
        """A series that attends to itself alone takes its own value, with weight one."""
        if self.training and attention.dropout > 0:
            values = attention.v(normed)
            weights = values.new_ones(*values.shape[:2], attention.heads, 1)
            kept = dropped(weights, attention.dropout)
            joined: Tensor = attention.o((values.unflatten(-1, (attention.heads, -1)) * kept).flatten(-2))
            return joined
        if torch.is_autocast_enabled(normed.device.type):  # it would round the product of the weights
            said: Tensor = attention.o(attention.v(normed))
            return said
        return functional.linear(normed, attention.o.weight @ attention.v.weight)

    def _across_series(self, attention: Attention, normed: Tensor, mask: Tensor) -> Tensor:
        split = (3, attention.heads, attention.width)
        weights = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        # [places, size, 3, heads, d_kv] to three of [places, heads, size, d_kv]
        joint = functional.linear(normed, weights).unflatten(-1, split).permute(2, 0, 3, 1, 4)
        queries, keys, values = joint.unbind(0)
        mixed = self._attend(attention, queries, keys, values, mask[:, None, None])
        joined: Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return joined


def _location_and_scale(context: Tensor) -> LocationAndScale:
    """Mean and standard deviation of what is known of each row: shape [rows, 1] each."""
    location = context.nanmean(dim=-1, keepdim=True).nan_to_num(nan=0.0)
    scale = (context - location).square().nanmean(dim=-1, keepdim=True).sqrt().nan_to_num(nan=1.0)
    return location, torch.where(scale == 0, _LEAST_SCALE, scale)


def _rotations(form: Architecture, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of each position: shape [length, 1, d_kv]."""
    frequencies = 1.0 / form.rope_theta ** (torch.arange(0, form.d_kv, 2) / form.d_kv)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1)[:, None], torch.cat([-sin, sin], dim=-1)[:, None]
