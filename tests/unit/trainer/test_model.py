from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series
from chronos_ec2.errors import ChronosError, DataInvalid
from chronos_ec2.instance.trainers.artifact import load_model, save_model
from chronos_ec2.instance.trainers.model import Adam, LinearQuantileModel, Shape
from chronos_ec2.instance.trainers.windows import Batch, Windows, fill

from .conftest import wave, write_series

SHAPE = Shape(context_length=60, prediction_length=5, season_length=6)
NAN = float("nan")


def trained_a_little(seed: int = 0) -> LinearQuantileModel:
    model = LinearQuantileModel(SHAPE)
    noise = np.random.default_rng(seed).normal(scale=0.05, size=model.weights.shape)
    model.weights += noise.astype(np.float32)
    return model


def some_batch(size: int = 4) -> Batch:
    rng = np.random.default_rng(3)
    context = rng.normal(5, 2, (size, 60)).astype(np.float32)
    return Batch(context, rng.normal(5, 2, (size, 5)).astype(np.float32))


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    model, batch = trained_a_little(), some_batch()
    _, gradient = model.loss_and_gradient(batch)
    direction = np.random.default_rng(1).normal(size=gradient.shape).astype(np.float32)
    centre, reach = model.weights.copy(), np.float32(1e-3)
    model.weights[...] = centre + reach * direction
    above, _ = model.loss_and_gradient(batch)
    model.weights[...] = centre - reach * direction
    below, _ = model.loss_and_gradient(batch)
    assert (above - below) / (2 * float(reach)) == pytest.approx(
        float((gradient * direction).sum()), rel=0.02
    )


def test_a_missing_target_has_no_part_in_loss_and_gradient() -> None:
    model, batch = trained_a_little(), some_batch(2)
    batch.target[1] = NAN
    alone = Batch(batch.context[:1], batch.target[:1])
    loss, gradient = model.loss_and_gradient(batch)
    expected, expected_gradient = model.loss_and_gradient(alone)
    assert loss == pytest.approx(expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


def test_a_forecast_moves_and_grows_with_its_history() -> None:
    model = trained_a_little()
    history = np.random.default_rng(0).normal(size=(1, 60)) * 100
    plain = model.forecast(history)
    np.testing.assert_allclose(model.forecast(history * 4), plain * 4, rtol=1e-3, atol=0.5)
    assert plain.shape == (1, 5, 9)
    assert (np.diff(plain, axis=-1) >= 0).all()


def test_a_constant_history_is_forecast_near_its_value() -> None:
    forecast = trained_a_little().forecast(np.full(60, 10.0))
    assert np.isfinite(forecast).all()
    assert np.abs(forecast - 10).max() < 1


def test_missing_values_in_a_history_count_as_the_last_known() -> None:
    model, history = trained_a_little(), np.arange(60.0)
    history[[0, 7, 59]] = NAN
    filled = history.copy()
    filled[[0, 7, 59]] = [1, 6, 58]
    np.testing.assert_array_equal(model.forecast(history), model.forecast(filled))


def test_a_history_that_is_short_or_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="59 values given, 60 needed"):
        trained_a_little().forecast(np.ones(59))
    with pytest.raises(ValueError, match="without any value"):
        trained_a_little().forecast(np.full(60, NAN))


@pytest.mark.parametrize(("context", "season"), [(1, 1), (10, 24), (50, 24), (512, 1), (40, 1440), (30, 7)])
def test_every_context_value_is_looked_at_once_whatever_the_season(context: int, season: int) -> None:
    model = LinearQuantileModel(Shape(context, 3, season))
    reach = np.abs(model._basis).sum(axis=1)
    assert (reach > 0).all()
    assert np.count_nonzero(model._basis, axis=1).tolist() == [1] * context


def test_adam_takes_the_first_step_at_full_length_against_the_gradient() -> None:
    weights = np.zeros((1, 3), dtype=np.float32)
    Adam.fresh(weights).update(weights, np.array([[1e-3, -5.0, 0.0]], dtype=np.float32), 1, 0.1)
    np.testing.assert_allclose(weights, [[-0.1, 0.1, 0.0]], rtol=1e-3)


def windows_over(folder: Path, values: Any, context: int = 10, horizon: int = 4) -> Windows:
    write_series(folder, "a.parquet", {"a": values})
    return Windows(load_series(folder, Columns(), context + 2 * horizon), context, horizon)


def test_the_batch_of_a_step_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    windows = windows_over(tmp_path, wave(100))
    windows.draw(0, 1, 8)
    again = windows_over(tmp_path, wave(100))
    np.testing.assert_array_equal(windows.draw(0, 7, 8).context, again.draw(0, 7, 8).context)
    assert not np.array_equal(windows.draw(0, 7, 8).context, windows.draw(0, 8, 8).context)
    assert not np.array_equal(windows.draw(0, 7, 8).context, windows.draw(1, 7, 8).context)


def test_no_training_window_reaches_the_held_out_values_and_all_others_are_used(tmp_path: Path) -> None:
    windows = windows_over(tmp_path, np.arange(30.0))
    seen = np.unique(np.concatenate([windows.draw(0, step, 32).target.ravel() for step in range(20)]))
    assert seen.tolist() == [float(value) for value in range(10, 26)]
    assert windows.held_out().target.tolist() == [[26, 27, 28, 29]]
    assert windows.held_out().context.tolist() == [[float(value) for value in range(16, 26)]]


def test_windows_without_a_known_context_or_target_are_never_drawn(tmp_path: Path) -> None:
    values = np.arange(60.0)
    values[20:40] = NAN
    windows = windows_over(tmp_path, values)
    for step in range(20):
        batch = windows.draw(0, step, 32)
        assert not np.isnan(batch.target).all(axis=1).any()
        assert (np.ptp(batch.context, axis=1) > 0).all()
    with pytest.raises(DataInvalid, match="every training window is empty"):
        windows_over(tmp_path, [1.0] + [NAN] * 40)


def test_a_model_comes_back_as_it_was_written_and_writes_the_same_bytes(tmp_path: Path) -> None:
    model, path = trained_a_little(), tmp_path / "models" / "model.pkl"
    save_model(path, model, {"metrics": {"WQL": 0.1}})
    loaded = load_model(path)
    history = wave(60)
    np.testing.assert_array_equal(loaded.forecast(history), model.forecast(history))
    first = path.read_bytes()
    save_model(path, loaded, {"metrics": {"WQL": 0.1}})
    assert path.read_bytes() == first
    assert [item.name for item in path.parent.iterdir()] == ["model.pkl"]


def test_a_model_file_refers_to_no_code(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pkl", trained_a_little(), {})
    opcodes = {code.name for code, _, _ in pickletools.genops((tmp_path / "model.pkl").read_bytes())}
    assert opcodes.isdisjoint(
        {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "EXT1"}
    )


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"format": "other"})]
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(ChronosError, match=r"model\.pkl"):
        load_model(tmp_path / "model.pkl")


def test_a_pickle_that_would_run_code_is_refused_before_it_does(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    with pytest.raises(ChronosError, match="mkdir"):
        load_model(tmp_path / "model.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    save_model(path, trained_a_little(), {})
    content = pickle.loads(path.read_bytes())
    content["weights"]["data"] = content["weights"]["data"][:-4]
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ChronosError, match="damaged"):
        load_model(path)


def test_gaps_in_values_are_filled_from_the_past_of_the_same_series_only() -> None:
    values = np.array([1, NAN, NAN, 4, NAN, 5, NAN, 7], dtype=np.float32)
    assert fill(values, np.array([0, 4, 8]), 1).tolist() == [1, 1, 1, 4, 5, 5, 5, 7]
    assert fill(values, np.array([0, 4, 8]), 3).tolist() == [1, 1, 1, 4, 0, 5, 5, 7], (
        "no look at what is held out"
    )
