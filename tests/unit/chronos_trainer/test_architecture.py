"""What a config.json must say, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.instance.trainers.chronos.architecture import Architecture
from chronos_ec2.instance.trainers.chronos.model import load_model, random_model, save_model
from chronos_ec2.training_settings import ChronosConfig

from .conftest import SMALL
from .library import library_model

GONE = object()


def document() -> dict[str, Any]:
    """A config.json as ours are."""
    return json.loads(json.dumps(random_model(ChronosConfig(**SMALL)).form.document))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("chronos_config", GONE, "chronos_config is missing"),
        ("d_model", 0, "d_model must be a whole number from 1, not 0"),
        ("d_kv", 7, "d_kv must be even"),
        ("num_layers", True, "num_layers must be a whole number"),
        ("dropout_rate", "0.1", "dropout_rate must be a number"),
        ("rope_theta", float("inf"), "rope_theta must be a number"),
        ("feed_forward_proj", "gated-gelu", "feed_forward_proj must be one of relu"),
        ("chronos_config.context_length", 1.5, "chronos_config.context_length must be a whole number"),
        ("chronos_config.context_length", GONE, "chronos_config.context_length must be a whole number"),
        ("chronos_config.output_patch_size", 8, "must be equal"),
        ("chronos_config.use_reg_token", GONE, "use_reg_token must be true"),
        ("chronos_config.quantiles", [], "quantiles must be a list"),
        ("chronos_config.quantiles", [0.5, 1.5], "1.5 is not between 0 and 1"),
        ("chronos_config.scaling", "new", "chronos_config.scaling is unknown"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(key: str, value: object, says: str) -> None:
    config = document()
    holder = config["chronos_config"] if key.startswith("chronos_config.") else config
    name = key.removeprefix("chronos_config.")
    holder[name] = value
    if value is GONE:
        del holder[name]
    with pytest.raises(ValueError, match=says):
        Architecture.read(config)


def test_defaults_are_those_of_the_library(tmp_path: Path) -> None:
    whole = random_model(ChronosConfig(prediction_length=8, model_size="mini"))
    save_model(whole, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "layer_norm_epsilon", "rope_theta"):
        del config[key]
    for key in ("time_encoding_scale", "max_output_patches"):
        del config["chronos_config"][key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = library_model(tmp_path)
    form = load_model(tmp_path).form
    for key in ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "layer_norm_epsilon", "rope_theta"):
        assert getattr(form, key) == getattr(theirs.config, key), key
    assert form.dropout_rate == theirs.config.dropout_rate
    assert form.time_encoding_scale == theirs.chronos_config.time_encoding_scale
    assert form.max_output_patches == theirs.chronos_config.max_output_patches


def test_a_model_of_the_library_comes_back_as_it_was(tmp_path: Path) -> None:
    config = ChronosConfig(**SMALL)
    save_model(random_model(config), tmp_path / "ours")
    theirs = library_model(tmp_path / "ours")
    theirs.config.a_key_of_tomorrow = [1]
    theirs.save_pretrained(tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), tmp_path / "again")
    ours, again = (tmp_path / name / "model.safetensors" for name in ("ours", "again"))
    assert again.read_bytes() == ours.read_bytes()
    assert json.loads((tmp_path / "again/config.json").read_text())["a_key_of_tomorrow"] == [1]


def test_weights_in_half_precision_are_trained_in_whole(tmp_path: Path) -> None:
    save_model(random_model(ChronosConfig(**SMALL)), tmp_path)
    library_model(tmp_path).bfloat16().save_pretrained(tmp_path / "half")
    model = load_model(tmp_path / "half")
    assert {str(weight.dtype) for weight in model.parameters()} == {"torch.float32"}
    save_model(model, tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["dtype"] == "float32"
