"""Make, load and save a Chronos-2 model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.instance.metrics import QUANTILE_LEVELS
from chronos_ec2.instance.trainers.chronos.architecture import Architecture
from chronos_ec2.instance.trainers.chronos.layers import RootMeanSquareNorm
from chronos_ec2.instance.trainers.chronos.network import REG_TOKEN, Network
from chronos_ec2.start_model import CONFIG, PIPELINE_CLASS, WEIGHTS, read_model_config
from chronos_ec2.training_settings import ChronosConfig

PATCH: Final = 16
"""Values a patch, of the published models; the library wants input and output patches of one size."""
QUANTILES: Final = (
    *(0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    *(0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99),
)
"""The levels of the published models."""

_SIZES: Final[dict[str, dict[str, Any]]] = {
    "tiny": {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0},
    "mini": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "dropout_rate": 0.1},
    "base": {
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_heads": 12,
        "dropout_rate": 0.1,
    },
}
_AS_SAVED: Final = {"architectures": ["Chronos2Model"], "dtype": "float32", "model_type": "t5"}
_NOT_SAVED: Final = ("torch_dtype", "attn_implementation", "quantization_config", "output_attentions")
"""How somebody else loaded the weights; the library refuses some of it with weights in float32."""
_ALL_MODELS: Final[dict[str, Any]] = {
    **_AS_SAVED,
    "chronos_pipeline_class": PIPELINE_CLASS,
    "dense_act_fn": "relu",
    "feed_forward_proj": "relu",
    "initializer_factor": 0.05,
    "is_gated_act": False,
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "reg_token_id": REG_TOKEN,
    "rope_theta": 10_000.0,
    "vocab_size": 2,
}
_GAIN: Final = 0.6


def random_model(config: ChronosConfig) -> Network:
    """A model that has learned nothing; the same settings and seed give the same weights.

    Raises:
        SettingsError: `model_config` does not go together.
    """
    chronos = {
        "context_length": config.context_length,
        "input_patch_size": PATCH,
        "input_patch_stride": PATCH,
        "max_output_patches": math.ceil(config.prediction_length / PATCH),
        "output_patch_size": PATCH,
        "quantiles": list(QUANTILES),
        "time_encoding_scale": config.context_length,
        "use_arcsinh": True,
        "use_reg_token": True,
    }
    sizes = {**_SIZES[config.model_size], **config.model_config}
    try:
        form = Architecture.read({**_ALL_MODELS, **sizes, "chronos_config": chronos})
    except ValueError as error:
        raise SettingsError(f"model_config: {error}") from error
    try:
        model = Network(form)
    except RuntimeError as error:
        raise SettingsError("model_config: a model of these sizes does not fit into this memory") from error
    _initialise(model, config.seed)
    return model


def _initialise(model: Network, seed: int) -> None:
    """Set the weights in the scheme of T5 (Mesh TensorFlow): the width of each layer's input sets the spread.

    The library's own result depends on the major version of transformers, whose newer one overrides it.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                spread = _GAIN * module.in_features**-0.5
                if name.endswith("attention.q"):
                    # The scores are not divided by the root of d_kv, so the queries are.
                    spread *= model.form.d_kv**-0.5
                module.weight.normal_(0.0, spread, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, _GAIN, generator=generator)
            elif isinstance(module, RootMeanSquareNorm):
                module.weight.fill_(1.0)


def load_model(folder: Path, config: ChronosConfig | None = None) -> Network:
    """Read a model that the library's `save_pretrained` or `save_model` wrote; weights become float32.

    Args:
        folder: with config.json and model.safetensors.
        config: the lengths to fit it to; None leaves them as they are.

    Raises:
        SettingsError: it is not a Chronos-2 model in safetensors.
    """
    try:
        form = Architecture.read(read_model_config(folder))
    except ValueError as error:
        raise SettingsError(f"{folder / CONFIG}: {error}") from error
    longest = form.context_length
    if config is not None:
        if missing := sorted(set(QUANTILE_LEVELS) - set(form.quantiles)):
            raise SettingsError(f"{folder / CONFIG}: it forecasts no level {missing[0]}, which is scored")
        needed = math.ceil(config.prediction_length / form.patch)
        form = form.with_lengths(
            context_length=config.context_length, max_output_patches=max(needed, form.max_output_patches)
        )
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise SettingsError(f"{folder}: the weights cannot be read ({_line(error)})") from error
    with torch.device("meta"):  # no memory before the weights are known to fit
        model = Network(form)
    model.longest_context = longest
    _refuse_other_weights(folder, model.state_dict(), stored)
    # Copied: what is read lies in the file, and whoever wrote over it would write into the model.
    floats = {name: weight.to(torch.float32, copy=True) for name, weight in stored.items()}
    model.load_state_dict(floats, assign=True)
    for weight in model.parameters():
        weight.requires_grad_(True)
    return model


def _refuse_other_weights(folder: Path, wanted: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    problems = {
        "missing_keys": wanted.keys() - stored.keys(),
        "unexpected_keys": stored.keys() - wanted.keys(),
        "mismatched_keys": {
            name for name in wanted.keys() & stored.keys() if wanted[name].shape != stored[name].shape
        },
        "not floating point": {name for name, weight in stored.items() if not weight.is_floating_point()},
    }
    for problem, names in problems.items():
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise SettingsError(f"{folder}: the weights do not fit the model's config ({problem}: {shown})")


def save_model(model: Network, folder: Path) -> None:
    """Write config.json and model.safetensors, to be loaded by `BaseChronosPipeline.from_pretrained`.

    A model that was tuned on short contexts takes the long ones of its start as before.

    Raises:
        ChronosError, OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    longest = max(model.form.context_length, model.longest_context)
    form = model.form.with_lengths(context_length=longest)
    document = {**form.document, **_AS_SAVED, "layer_norm_epsilon": form.layer_norm_epsilon}
    for key in _NOT_SAVED:
        document.pop(key, None)
    text = json.dumps(document, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    try:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    except (RuntimeError, SafetensorError) as error:  # safetensors has its own word for a full disk
        raise ChronosError(f"{folder}: the model cannot be written ({_line(error)})") from error
    (folder / WEIGHTS).chmod(0o644)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
