"""Make, load and save a Chronos-2 model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos2.model import Chronos2Model
from safetensors import SafetensorError
from torch import nn

from chronos_ec2.errors import ChronosError, SettingsError
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
_GAIN: Final = 0.6


def random_model(config: ChronosConfig) -> Chronos2Model:
    """A model that has learned nothing; the same settings and seed give the same weights."""
    sizes = {**_SIZES[config.model_size], **config.model_config}
    if sizes["d_kv"] % 2:
        raise SettingsError(
            f"model_config.d_kv must be even (rotary position embedding), not {sizes['d_kv']}"
        )
    core = Chronos2CoreConfig(
        **sizes,
        architectures=["Chronos2Model"],
        chronos_pipeline_class=PIPELINE_CLASS,
        chronos_config={
            "context_length": config.context_length,
            "input_patch_size": PATCH,
            "input_patch_stride": PATCH,
            "output_patch_size": PATCH,
            "max_output_patches": math.ceil(config.prediction_length / PATCH),
            "quantiles": list(QUANTILES),
            "use_reg_token": True,
            "use_arcsinh": True,
            "time_encoding_scale": config.context_length,
        },
    )
    model = Chronos2Model(core)
    _initialise(model, config.seed)
    return model


def _initialise(model: Chronos2Model, seed: int) -> None:
    """Set the weights in the scheme of T5 (Mesh TensorFlow): the width of each layer's input sets the spread.

    The library's own result depends on the major version of transformers, whose newer one overrides it.
    """
    generator = torch.Generator().manual_seed(seed)
    d_kv = int(model.config.d_kv)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                spread = _GAIN * module.in_features**-0.5
                if name.endswith("attention.q"):
                    # The scores are not divided by the root of d_kv, so the queries are.
                    spread *= d_kv**-0.5
                module.weight.normal_(0.0, spread, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, _GAIN, generator=generator)
            elif type(module).__name__.endswith("LayerNorm"):
                module.weight.fill_(1.0)


def load_model(folder: Path, config: ChronosConfig | None = None) -> Chronos2Model:
    """Read a model that `save_pretrained` of the library wrote.

    Args:
        folder: with config.json and model.safetensors.
        config: the lengths to fit it to; None leaves them as they are.

    Raises:
        SettingsError: it is not a Chronos-2 model in safetensors.
    """
    core = _read_config(folder)
    chronos = core.chronos_config
    # The library takes the context length for it when it is missing: fix it before that length changes.
    chronos.setdefault("time_encoding_scale", chronos["context_length"])
    longest = int(chronos["context_length"])
    if config is not None:
        chronos["context_length"] = config.context_length
        needed = math.ceil(config.prediction_length / chronos["output_patch_size"])
        chronos["max_output_patches"] = max(needed, int(chronos.get("max_output_patches", 1)))
    try:
        model, told = Chronos2Model.from_pretrained(
            folder,
            config=core,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise SettingsError(f"{folder}: the weights cannot be read ({_line(error)})") from error
    # The library fills in what is not there with random numbers, and says so in its log alone.
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[problem]:
            names = ", ".join(sorted(map(str, told[problem]))[:3])
            raise SettingsError(f"{folder}: the weights do not fit the model's config ({problem}: {names})")
    model.longest_context = longest
    return model


def _read_config(folder: Path) -> Chronos2CoreConfig:
    try:
        core = Chronos2CoreConfig(**read_model_config(folder))
    except (TypeError, ValueError, AssertionError) as error:
        raise SettingsError(f"{folder / CONFIG}: {_line(error)}") from error
    if not core.chronos_config.get("use_reg_token"):
        # The library itself fails at the first forecast then.
        raise SettingsError(f"{folder / CONFIG}: use_reg_token must be true")
    return core


def save_model(model: Chronos2Model, folder: Path) -> None:
    """Write config.json and model.safetensors, to be loaded by `BaseChronosPipeline.from_pretrained`.

    A model that was tuned on short contexts takes the long ones of its start as before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chronos = model.config.chronos_config
    trained = int(chronos["context_length"])
    chronos["context_length"] = max(trained, getattr(model, "longest_context", trained))
    try:
        model.save_pretrained(folder)
    except RuntimeError as error:  # safetensors has its own word for a full disk
        raise ChronosError(f"{folder}: the model cannot be written ({_line(error)})") from error
    finally:
        chronos["context_length"] = trained
    (folder / WEIGHTS).chmod(0o644)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
