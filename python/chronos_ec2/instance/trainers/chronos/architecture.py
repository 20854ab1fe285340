"""What config.json says of a Chronos-2 model: sizes, lengths and levels, read without the library's own code.

Keys and defaults are those of chronos-forecasting 2 (chronos2/config.py, chronos2/model.py). What it takes
and cannot be trained here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chronos_ec2.instance.trainers.chronos.layers import ACTIVATIONS
from chronos_ec2.training_settings import LARGEST_SIZE, MOST_LAYERS

_CHRONOS: Final = "chronos_config"
_LENGTHS: Final = (
    *("context_length", "max_output_patches", "time_encoding_scale"),
    *("input_patch_size", "input_patch_stride", "output_patch_size"),
)
_KEYS: Final = {*_LENGTHS, "quantiles", "use_reg_token", "use_arcsinh"}
_SIZES: Final = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
_OTHER_NAMES: Final = {
    "hidden_size": "d_model",
    "head_dim": "d_kv",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
"""What transformers calls some sizes; such a name goes before ours."""


@dataclass(frozen=True)
class Architecture:
    """The form of a model. Lengths are in values of a series, a patch being `patch` of them.

    Attributes:
        document: config.json as it was read; what is not read from it is written as it came.
        quantiles: the levels that are forecast.
    """

    document: Mapping[str, Any]
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    dropout_rate: float
    layer_norm_epsilon: float
    rope_theta: float
    activation: str
    context_length: int
    max_output_patches: int
    time_encoding_scale: int
    patch: int
    stride: int
    quantiles: tuple[float, ...]
    use_arcsinh: bool

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Architecture:
        """Take a config.json.

        Raises:
            ValueError: it is of no model that can be trained here; the message names the key.
        """
        chronos = document.get(_CHRONOS)
        if not isinstance(chronos, Mapping):
            raise ValueError(f"{_CHRONOS} is missing")
        if unknown := sorted(set(chronos) - _KEYS):
            raise ValueError(f"{_CHRONOS}.{unknown[0]} is unknown")
        if chronos.get("use_reg_token") is not True:
            # The library itself fails at the first forecast then.
            raise ValueError(f"{_CHRONOS}.use_reg_token must be true")
        lengths = {"max_output_patches": 1, **chronos}
        if lengths.get("time_encoding_scale") is None:
            lengths["time_encoding_scale"] = lengths.get("context_length")
        length = {name: _count(lengths, name, f"{_CHRONOS}.{name}") for name in _LENGTHS}
        if length["input_patch_size"] != length["output_patch_size"]:
            raise ValueError(f"{_CHRONOS}.input_patch_size and output_patch_size must be equal")
        # The library derives the second from the first, and a config.json that has it sets it once more.
        projection = str(document.get("feed_forward_proj", "relu"))
        activation = str(document.get("dense_act_fn", projection))
        if document.get("is_gated_act") or projection.startswith("gated"):
            raise ValueError("gated activations cannot be trained (is_gated_act, feed_forward_proj)")
        if activation not in ACTIVATIONS:
            raise ValueError(f"dense_act_fn must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        renamed = {name: document[other] for other, name in _OTHER_NAMES.items() if other in document}
        sizes = {**_SIZES, **document, **renamed}
        d_kv = _count(sizes, "d_kv")
        if d_kv % 2:
            raise ValueError(f"d_kv must be even (rotary position embedding), not {d_kv}")
        dropout_rate = _number(document, "dropout_rate", 0.1)
        if dropout_rate >= 1:
            raise ValueError(f"dropout_rate must be below 1, not {dropout_rate:g}")
        rope_theta = _number(document, "rope_theta", 10_000.0)
        if rope_theta == 0:
            raise ValueError("rope_theta must be above 0")
        return cls(
            document=document,
            d_model=_count(sizes, "d_model"),
            d_kv=d_kv,
            d_ff=_count(sizes, "d_ff"),
            num_layers=_count(sizes, "num_layers", most=MOST_LAYERS),
            num_heads=_count(sizes, "num_heads"),
            dropout_rate=dropout_rate,
            layer_norm_epsilon=_number(document, "layer_norm_epsilon", 1e-6),
            rope_theta=rope_theta,
            activation=activation,
            context_length=length["context_length"],
            max_output_patches=length["max_output_patches"],
            time_encoding_scale=length["time_encoding_scale"],
            patch=length["input_patch_size"],
            stride=length["input_patch_stride"],
            quantiles=_levels(chronos.get("quantiles")),
            use_arcsinh=bool(chronos.get("use_arcsinh", False)),
        )

    def with_lengths(self, **lengths: int) -> Architecture:
        """The same with other lengths, by their key in `chronos_config`."""
        # Where the scale is missing it is the context length: it must not follow a new one.
        kept = {"time_encoding_scale": self.time_encoding_scale}
        return self.read({**self.document, _CHRONOS: {**self.document[_CHRONOS], **kept, **lengths}})


def _count(values: Mapping[str, Any], name: str, shown: str | None = None, most: int = LARGEST_SIZE) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{shown or name} must be a whole number from 1 to {most}, not {_short(value)}")
    return value


def _number(document: Mapping[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number) or number < 0:
        raise ValueError(f"{name} must be a number from 0, not {_short(value)}")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _levels(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{_CHRONOS}.quantiles must be a list of numbers between 0 and 1")
    for level in value:
        if not isinstance(level, float) or not 0 < level < 1:
            raise ValueError(f"{_CHRONOS}.quantiles: {_short(level)} is not between 0 and 1")
    return tuple(value)
