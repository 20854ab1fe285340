"""Windows are a function of seed and step, and never reach what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series
from chronos_ec2.errors import DataInvalid
from chronos_ec2.instance.trainers.chronos.windows import Windows
from chronos_ec2.training_settings import ChronosConfig

from .conftest import write_table


def windows(folder: Path, columns: Columns | None = None, **settings: int) -> Windows:
    columns = columns or Columns()
    config = ChronosConfig(
        prediction_length=4,
        target=columns.targets,
        past_covariates=columns.past_covariates,
        known_covariates=columns.known_covariates,
        **{"context_length": 10, **settings},
    )
    return Windows(load_series(folder, columns, config.min_length), config)


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """Series whose values tell series and place: 1000, 1001, … and 2000, 2001, …"""
    write_table(tmp_path / "f.parquet", {"target": {"a": 1000 + np.arange(60), "b": 2000 + np.arange(20)}})
    return tmp_path


def test_a_step_draws_the_same_windows_whatever_was_drawn_before(counting: Path) -> None:
    one, other = windows(counting), windows(counting)
    one.draw(0, 1, 8)
    assert torch.equal(
        torch.nan_to_num(one.draw(0, 2, 8).context), torch.nan_to_num(other.draw(0, 2, 8).context)
    )
    assert not torch.equal(one.draw(0, 2, 8).target, one.draw(0, 3, 8).target)
    assert not torch.equal(one.draw(0, 2, 8).target, one.draw(1, 2, 8).target)


def test_the_shares_of_the_processes_are_the_batch(counting: Path) -> None:
    made = windows(counting)
    whole = made.draw(0, 5, 8).target
    shares = [made.draw(0, 5, 8, slice(rank, 8, 2)).target for rank in range(2)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole)


def test_windows_follow_each_other_in_one_series_and_leave_the_held_out_values_alone(counting: Path) -> None:
    made = windows(counting)
    seen = set()
    for step in range(60):
        batch = made.draw(0, step, 8)
        for context, target in zip(batch.context, batch.target, strict=True):
            known = context[~context.isnan()]
            assert len(known) >= 4, "min_past is the prediction length"
            row = torch.cat([known, target])
            assert torch.equal(row[1:] - row[:-1], torch.ones(len(row) - 1))
            assert context.isnan().tolist() == sorted(context.isnan().tolist(), reverse=True), (
                "padded in front"
            )
            seen.update(target.tolist())
    assert max(value for value in seen if value < 2000) == 1055
    assert max(seen) == 2015
    assert min(seen) == 1004, "from the fourth value on"


def test_the_held_out_window_is_the_last(counting: Path) -> None:
    held = windows(counting).held_out([1, 0])
    assert held.target.tolist() == [[2016, 2017, 2018, 2019], [1056, 1057, 1058, 1059]]
    assert held.context[0].tolist() == list(range(2006, 2016))


def test_covariates_stand_behind_the_targets_and_only_known_ones_reach_the_future(tmp_path: Path) -> None:
    names = ("y1", "y2", "past", "known")
    write_table(
        tmp_path / "f.parquet",
        {name: {"a": 100 * number + np.arange(40)} for number, name in enumerate(names)},
    )
    made = windows(
        tmp_path, Columns(targets=("y1", "y2"), past_covariates=("past",), known_covariates=("known",))
    )
    assert made.variates == 4
    batch = made.held_out([0])
    assert batch.context[:, -1].tolist() == [35, 135, 235, 335]
    assert batch.target[:2].tolist() == [[36, 37, 38, 39], [136, 137, 138, 139]]
    assert batch.target[2:].isnan().all()
    assert batch.known is not None
    assert batch.known[:3].isnan().all()
    assert batch.known[3].tolist() == [336, 337, 338, 339]


def test_windows_without_a_known_value_are_not_drawn(tmp_path: Path) -> None:
    values = np.full(80, np.nan)
    values[30:50] = np.arange(20)
    write_table(tmp_path / "f.parquet", {"target": {"a": values}})
    made = windows(tmp_path)
    for step in range(20):
        batch = made.draw(0, step, 8)
        assert (~batch.target.isnan()).any(dim=1).all()
        assert (~batch.context.isnan()).any(dim=1).all()


def test_data_in_which_every_window_is_empty_are_refused(tmp_path: Path) -> None:
    values = np.full(80, np.nan)
    values[0] = 1.0
    write_table(tmp_path / "f.parquet", {"target": {"a": values}})
    with pytest.raises(DataInvalid, match="all are empty: too many missing values"):
        windows(tmp_path).draw(0, 1, 8)
