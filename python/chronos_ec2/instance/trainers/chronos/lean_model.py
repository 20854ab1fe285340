"""Chronos-2's forward pass without the work that nothing looks at; its loss and forecasts are the same.

Across series: the library lets every series of a batch attend to every other and masks those of other groups,
so work and memory grow with the square of the batch. Here all groups have one size and stand behind each
other, so each attends within its own block. What is masked out there weighs exactly zero; only the states of
patches without any value differ, and those are looked at by nobody.

Along time: of the last layer's states only those of the patches to forecast are used, so only those are made.

In training, forecasts are not scaled back, as the loss is taken of scaled values. Each norm is one step with
a gradient of its own, times and rotations are computed once, and nothing waits for a GPU. What dropout takes,
a CPU draws sixteen bits at a time.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from chronos.chronos2.layers import MHA, Chronos2LayerNorm
from chronos.chronos2.model import Chronos2EncoderBlock, Chronos2Model
from torch import Tensor, nn
from torch.nn import functional

LocationAndScale = tuple[Tensor, Tensor]
_LEVELS: Final = 1 << 16
"""Steps of a dropout's rate: what is kept is scaled by the rate as it was rounded, so its mean is exact."""


class LeanChronos2(nn.Module):
    """A Chronos-2 model for windows of one shape: a view on its weights, which stay where they are.

    With a group of one, queries and keys across series have no effect: frozen, as their gradient is zero.

    Args:
        model: whose weights it uses; its context length is that of every window.
        group_size: series a group; series `k * size` to `(k + 1) * size - 1` of a batch are one.
        output_patches: patches that are forecast in every call.
    """

    def __init__(self, model: Chronos2Model, group_size: int, output_patches: int) -> None:
        super().__init__()
        self.model = model
        self._group_size, self._ahead = group_size, output_patches
        settings = model.chronos_config
        self._patch, self._stride = int(settings.input_patch_size), int(settings.input_patch_stride)
        padded = -(-int(settings.context_length) // self._patch) * self._patch
        self._padding = padded - int(settings.context_length)
        patches = (padded - self._patch) // self._stride + 1
        scale = float(settings.time_encoding_scale)
        past = torch.arange(-patches * self._patch, 0).view(1, patches, -1) / scale
        future = torch.arange(output_patches * self._patch).view(1, output_patches, -1) / scale
        cos, sin = _rotations(model, patches + 1 + output_patches)
        for name, value in {"past": past, "future": future, "cos": cos, "sin": sin}.items():
            self.register_buffer(f"_{name}", value, persistent=False)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, _Dropout(child.p))
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
        wanted = self.model.instance_norm(target, loc_scale)[0].unsqueeze(1)
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
        flat: Tensor = self.model.instance_norm.inverse(scaled.flatten(1), loc_scale)
        return flat.view_as(scaled)

    def _predict(self, context: Tensor, known: Tensor | None) -> tuple[Tensor, LocationAndScale]:
        """Scaled forecasts, shape [rows, levels, output patches x patch length], and the scale."""
        features, filled, loc_scale = self._context_features(context)
        mask = (1.0 - filled) * torch.finfo(filled.dtype).min
        states = self._embed(features, self._future_features(known, loc_scale))
        encoder = self.model.encoder
        states = encoder.dropout(states)
        *inner, last = encoder.block
        for block in inner:
            states = self._layer(block, states, mask, filled, states.shape[1])
        states = self._layer(last, states, mask, filled, self._ahead)
        states = encoder.dropout(_norm(encoder.final_layer_norm, states))
        said: Tensor = self.model.output_patch_embedding(states)
        by_level = said.unflatten(-1, (self.model.num_quantiles, self._patch)).transpose(1, 2)
        return by_level.flatten(2), loc_scale

    def _context_features(self, context: Tensor) -> tuple[Tensor, Tensor, LocationAndScale]:
        """Time, value and mask of each patch; which of all patches hold anything, as 1 and 0; the scale."""
        context = functional.pad(context, (self._padding, 0), value=torch.nan)
        scaled, loc_scale = self.model.instance_norm(context)
        seen = (~context.isnan()).to(scaled.dtype).unfold(-1, self._patch, self._stride)
        values = scaled.nan_to_num(nan=0.0).unfold(-1, self._patch, self._stride)
        features = torch.cat([self._past.expand(len(context), -1, -1), values, seen], dim=-1)
        filled = functional.pad(seen.amax(dim=-1), (0, 1 + self._ahead), value=1.0)
        return features, filled, loc_scale

    def _future_features(self, known: Tensor | None, loc_scale: LocationAndScale) -> Tensor:
        """The same of the patches to forecast; those of all rows are one where no covariate is known."""
        if known is None:
            nothing = torch.zeros_like(self._future)
            return torch.cat([self._future, nothing, nothing], dim=-1)
        scaled = self.model.instance_norm(known, loc_scale)[0]
        missing = self._ahead * self._patch - known.shape[1]
        values = functional.pad(scaled.nan_to_num(nan=0.0), (0, missing)).unflatten(-1, (self._ahead, -1))
        seen = functional.pad((~known.isnan()).to(scaled.dtype), (0, missing))
        times = self._future.expand(len(known), -1, -1)
        return torch.cat([times, values, seen.unflatten(-1, (self._ahead, -1))], dim=-1)

    def _embed(self, past: Tensor, future: Tensor) -> Tensor:
        """The states of context patches, the token between, and the patches to forecast."""
        rows, embedding = len(past), self.model.input_patch_embedding
        if self.training and embedding.dropout.p > 0:
            future = future.expand(rows, -1, -1)
        token = self.model.shared.weight[self.model.config.reg_token_id].expand(rows, 1, -1)
        return torch.cat([embedding(past), token, embedding(future).expand(rows, -1, -1)], dim=1)

    def _layer(
        self, block: Chronos2EncoderBlock, states: Tensor, mask: Tensor, filled: Tensor, count: int
    ) -> Tensor:
        """One layer's states of the last `count` patches."""
        time, group, feed_forward = block.layer
        mixed = self._along_time(time.self_attention, _norm(time.layer_norm, states), mask, count)
        states = states[:, -count:] + time.dropout(mixed)
        normed = _norm(group.layer_norm, states)
        if self._group_size == 1:
            mixed = self._alone(group.self_attention, normed)
        else:
            mixed = self._across_series(group.self_attention, normed, filled[:, -count:])
        states = states + group.dropout(mixed)
        normed = _norm(feed_forward.layer_norm, states)
        return states + feed_forward.dropout(feed_forward.mlp(normed))

    def _along_time(self, attention: MHA, normed: Tensor, mask: Tensor, count: int) -> Tensor:
        split = (attention.n_heads, attention.kv_proj_dim)
        queries = attention.q(normed[:, -count:]).unflatten(-1, split)
        keys, values = (part(normed).unflatten(-1, split) for part in (attention.k, attention.v))
        queries = self._turned(queries, self._cos[-count:], self._sin[-count:])
        keys = self._turned(keys, self._cos, self._sin)
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        mixed = self._attend(attention, queries, keys, values, mask[:, None, None])
        joined: Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return joined

    def _attend(self, attention: MHA, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
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

    def _alone(self, attention: MHA, normed: Tensor) -> Tensor:
        """A series that attends to itself alone takes its own value, with weight one."""
        if self.training and attention.dropout > 0:
            values = attention.v(normed)
            weights = values.new_ones(*values.shape[:2], attention.n_heads, 1)
            kept = _dropped(weights, attention.dropout)
            joined: Tensor = attention.o((values.unflatten(-1, (attention.n_heads, -1)) * kept).flatten(-2))
            return joined
        if torch.is_autocast_enabled(normed.device.type):  # it would round the product of the weights
            said: Tensor = attention.o(attention.v(normed))
            return said
        return functional.linear(normed, attention.o.weight @ attention.v.weight)

    def _across_series(self, attention: MHA, normed: Tensor, filled: Tensor) -> Tensor:
        split = (3, attention.n_heads, attention.kv_proj_dim)
        weights = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        joint = functional.linear(normed, weights).unflatten(-1, split)
        # [groups, size, patches, 3, heads, d_kv] to three of [groups, patches, heads, size, d_kv]
        blocks = joint.unflatten(0, (-1, self._group_size)).permute(3, 0, 2, 4, 1, 5)
        seen = filled.unflatten(0, (-1, self._group_size)).transpose(1, 2)
        mask = ((1.0 - seen) * torch.finfo(seen.dtype).min)[:, :, None, None]
        queries, keys, values = blocks.unbind(0)
        mixed = self._attend(attention, queries, keys, values, mask)
        joined: Tensor = attention.o(mixed.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(2))
        return joined


def _rotations(model: Chronos2Model, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of each position: shape [length, 1, d_kv]."""
    embedding = model.encoder.block[0].layer[0].self_attention.rope_embed
    cos, sin = embedding(torch.zeros(()), torch.arange(length).unsqueeze(0))
    half = sin.shape[-1] // 2
    signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
    return cos[0, :, None], signed[0, :, None]


class _Dropout(nn.Dropout):
    """Dropout that costs a CPU half."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropped(input, self.p) if self.training and self.p > 0 else input


def _dropped(states: Tensor, rate: float) -> Tensor:
    """States of which a share is zero, and the others larger."""
    if states.is_cuda:  # there it is one kernel
        return functional.dropout(states, rate)
    lost, count = min(round(rate * _LEVELS), _LEVELS - 1), states.numel()
    # Drawing is what costs: four numbers of sixteen bits come with each of sixty-four.
    drawn = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), dtype=torch.int64, device=states.device)
    kept = drawn.view(torch.int16)[:count].view(states.shape) >= lost - _LEVELS // 2
    return states * kept.to(states.dtype).mul_(_LEVELS / (_LEVELS - lost))


def _norm(layer: Chronos2LayerNorm, states: Tensor) -> Tensor:
    if states.is_cuda:  # there it is one kernel each way
        return functional.rms_norm(states, layer.weight.shape, layer.weight, layer.variance_epsilon)
    found: Tensor = _RootMeanSquareNorm.apply(states, layer.weight, layer.variance_epsilon)
    return found


class _RootMeanSquareNorm(torch.autograd.Function):
    """`states / sqrt(mean(states ** 2) + epsilon) * weight`, with half of autograd's steps back."""

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
