"""What a config.json must say, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chronos_ec2.errors import SettingsError
from chronos_ec2.instance.trainers.chronos.architecture import Architecture
from chronos_ec2.instance.trainers.chronos.lean_model import LeanChronos2
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
        ("d_model", 0, "d_model must be a whole number from 1 to 1048576, not 0"),
        ("d_kv", 7, "d_kv must be even"),
        ("num_layers", True, "num_layers must be a whole number"),
        ("num_layers", 1001, "num_layers must be a whole number from 1 to 1000"),
        ("d_ff", 10**30, "d_ff must be a whole number from 1 to"),
        ("dropout_rate", "0.1", "dropout_rate must be a number"),
        ("dropout_rate", 1.0, "dropout_rate must be below 1"),
        ("rope_theta", float("inf"), "rope_theta must be a number"),
        ("rope_theta", 10**400, "rope_theta must be a number"),
        ("rope_theta", 0, "rope_theta must be above 0"),
        ("feed_forward_proj", "gated-gelu", "gated activations"),
        ("is_gated_act", True, "gated activations"),
        ("dense_act_fn", "gelu_new", "dense_act_fn must be one of relu"),
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


@pytest.mark.parametrize(
    "changed",
    [
        {"dense_act_fn": "gelu"},
        {"dense_act_fn": "relu", "feed_forward_proj": "gelu"},
        {"dense_act_fn": GONE, "feed_forward_proj": "silu"},
        {"num_hidden_layers": 1, "num_layers": 6},
    ],
    ids=["one name", "both names", "the other name", "the name of transformers"],
)
def test_a_key_with_two_names_means_what_it_does_to_the_library(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    save_model(random_model(ChronosConfig(**SMALL)), tmp_path)
    config = {**json.loads((tmp_path / "config.json").read_text()), **changed}
    kept = {key: value for key, value in config.items() if value is not GONE}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    context = torch.linspace(0, 3, 48).sin()[None]
    with torch.inference_mode():
        ours = LeanChronos2(load_model(tmp_path), 1, 1).eval().quantiles(context)
        theirs = library_model(tmp_path).eval()(context, num_output_patches=1).quantile_preds
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_model_that_lacks_a_level_that_is_scored_is_refused(tmp_path: Path) -> None:
    config = ChronosConfig(**SMALL)
    save_model(random_model(config), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("0.1,", "0.12,"))
    with pytest.raises(SettingsError, match=r"forecasts no level 0\.1"):
        load_model(tmp_path, config)


def test_a_model_is_not_changed_by_who_writes_over_its_file(tmp_path: Path) -> None:
    save_model(random_model(ChronosConfig(**SMALL)), tmp_path)
    model = load_model(tmp_path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.write(b"\xff" * (tmp_path / "model.safetensors").stat().st_size)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


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
