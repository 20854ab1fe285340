"""The lean model gives what the library's own gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from chronos_ec2.instance.trainers.chronos.lean_model import LeanChronos2
from chronos_ec2.instance.trainers.chronos.model import random_model, save_model
from chronos_ec2.training_settings import ChronosConfig

from .conftest import SMALL
from .library import library_model

GROUPS, HORIZON, PATCHES = 5, 40, 3
CONFIG = ChronosConfig(
    **{**SMALL, "prediction_length": HORIZON, "model_config": {**SMALL["model_config"], "num_layers": 2}}
)


def rows(group_size: int) -> dict[str, Any]:
    """Windows with missing values, some empty but for their end, as the model takes them."""
    generator = torch.Generator().manual_seed(1)
    count = GROUPS * group_size
    context = torch.randn(count, 48, generator=generator).cumsum(dim=1)
    context[torch.rand(count, 48, generator=generator) < 0.2] = math.nan
    context[:group_size, :40] = math.nan
    context[-1, :20] = math.nan
    target = torch.randn(count, HORIZON, generator=generator)
    known = torch.full((count, HORIZON), math.nan)
    if group_size > 1:
        covariate = torch.arange(count) % group_size == group_size - 1
        known[covariate] = 1.0
        target[covariate] = math.nan
    return {
        "context": context,
        "future_target": target,
        "future_covariates": known,
    }


def both(folder: Path, group_size: int) -> tuple[Any, LeanChronos2]:
    """The library's model and ours, with the same weights."""
    ours = random_model(CONFIG)
    save_model(ours, folder)
    return library_model(folder).train(), LeanChronos2(ours, group_size, PATCHES)


@pytest.mark.parametrize("group_size", [1, 3])
def test_forecasts_loss_and_gradients_are_those_of_the_library(tmp_path: Path, group_size: int) -> None:
    theirs, lean = both(tmp_path, group_size)
    batch = rows(group_size)
    groups = torch.arange(GROUPS).repeat_interleave(group_size)
    expected = theirs(**batch, group_ids=groups, num_output_patches=PATCHES)
    covariates = batch["future_covariates"] if group_size > 1 else None
    found = lean.quantiles(batch["context"], covariates)
    torch.testing.assert_close(found, expected.quantile_preds, rtol=1e-4, atol=1e-4)
    loss = lean(batch["context"], batch["future_target"], covariates)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-6)
    expected.loss.backward()
    loss.backward()
    named = dict(theirs.named_parameters())
    for name, weight in lean.model.named_parameters():
        wanted = named[name].grad
        assert wanted is not None
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, wanted, rtol=1e-3, atol=1e-5, msg=name)
        else:
            assert group_size == 1
            assert torch.count_nonzero(wanted) == 0, f"{name} is frozen, so its gradient must be zero"


@pytest.mark.parametrize("group_size", [1, 3])
def test_half_precision_is_that_of_the_library(tmp_path: Path, group_size: int) -> None:
    theirs, lean = both(tmp_path, group_size)
    batch = rows(group_size)
    groups = torch.arange(GROUPS).repeat_interleave(group_size)
    covariates = batch["future_covariates"] if group_size > 1 else None
    with torch.autocast("cpu", torch.bfloat16):
        expected = theirs(**batch, group_ids=groups, num_output_patches=PATCHES).loss
        loss = lean(batch["context"], batch["future_target"], covariates)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    loss.backward()
    for name, weight in lean.named_parameters():
        assert not weight.requires_grad or (weight.grad is not None and weight.grad.isfinite().all()), name


@pytest.mark.parametrize("group_size", [1, 3])
def test_it_is_one_graph_for_a_compiler(group_size: int) -> None:
    lean = LeanChronos2(random_model(CONFIG), group_size, PATCHES)
    batch = rows(group_size)
    words = (batch["context"], batch["future_target"], batch["future_covariates"])
    compiled = torch.compile(lean, backend="eager", fullgraph=True)
    loss = compiled(*words)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in lean.named_parameters() if weight.grad is not None}
    lean.zero_grad()
    expected = lean(*words)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, weight in lean.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, msg=name)


def test_groups_do_not_see_each_other() -> None:
    lean = LeanChronos2(random_model(CONFIG).eval(), 3, PATCHES)
    batch = rows(3)
    before = lean.quantiles(batch["context"], batch["future_covariates"])
    batch["context"][3] += torch.arange(48) ** 2
    after = lean.quantiles(batch["context"], batch["future_covariates"])
    assert torch.equal(before[:3], after[:3])
    assert torch.equal(before[6:], after[6:])
    assert not torch.allclose(before[4], after[4]), "its own group does"
