"""The trainer as the wrapper sees it: events, exit status, files, going on.

Killed, stopped and shared between processes it is in tests/faults/test_training.py.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.metrics import QUANTILE_LEVELS
from chronos_ec2.instance.trainers.chronos import learner
from chronos_ec2.instance.trainers.chronos.artifact import FORMAT, FORMAT_VERSION, read_pickle

from .conftest import SMALL, Outcome, wave, write_table
from .library import library_pipeline

Train = Callable[..., Outcome]
Config = Callable[..., Path]


def test_it_learns_and_beats_both_naive_forecasts(train: Train, config: Config, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_table(data / "f.parquet", {"target": {f"s{seed}": wave(700, seed) for seed in range(8)}})
    path = config(
        prediction_length=24, context_length=192, max_steps=150, batch_size=16, log_steps=10, save_steps=150,
        model_config={"num_layers": 1, "d_ff": 128},
    )  # fmt: skip
    outcome = train(path, data)
    assert outcome.status == 0, outcome.stderr
    final, losses = outcome.one("final"), outcome.losses()
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    for name, season in (("seasonal_naive", 24), ("seasonal_naive_long", 168)):
        naive = final["baselines"][name]
        assert naive["season_length"] == season
        assert final["metrics"]["WQL"] < 0.9 * naive["WQL"]
    start = outcome.one("start")
    assert (start["series"], start["world_size"], start["device"], start["precision"]) == (
        8,
        1,
        "cpu",
        "fp32",
    )
    assert [event["event"] for event in outcome.events][-2:] == ["train_end", "final"]


def test_the_model_folder_is_the_librarys_and_the_pickle_holds_the_same(whole: Outcome, waves: Path) -> None:
    pipeline = library_pipeline(whole.output / "models/chronos2")
    table = pq.read_table(whole.output / "forecasts.parquet").to_pandas()
    source = pq.read_table(waves / "waves.parquet").to_pandas()
    for name, told in table.groupby("item_id"):
        values = source[source.item_id == name].target.to_numpy(dtype=np.float32)
        context = torch.from_numpy(values[:-8][-48:].copy())
        quantiles, _ = pipeline.predict_quantiles([context], 8, quantile_levels=list(QUANTILE_LEVELS))
        found = told[[str(level) for level in QUANTILE_LEVELS]].to_numpy()
        np.testing.assert_allclose(found, quantiles[0][0].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(told.target.to_numpy(dtype=np.float32), values[-8:])
    stored = read_pickle(whole.output / "models/model.pkl").state_dict()
    for key, weight in pipeline.model.state_dict().items():
        assert torch.equal(stored[key], weight)
    assert (whole.output / "models/chronos2/model.safetensors").stat().st_mode & 0o777 == 0o644


class Call:
    """Pickled, it is a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def model_with(config: object) -> bytes:
    """What a model's file holds, with a config of one's own."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": config}
    return pickle.dumps({**content, "weights_safetensors": b""})


MARK = Path(tempfile.gettempdir()) / f"chronos-pickle-ran-{os.getpid()}"
HOSTILE = {
    "a name": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "a name on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "an instance of old": b"(S'touch pwned'\nios\nsystem\n.",
    "an object of old": b"(cos\nsystem\nS'touch pwned'\no.",
    "a call inside": model_with(Call(os.mkdir, str(MARK))),
    "a call of a builtin": model_with(Call(eval, f"__import__('os').mkdir({str(MARK)!r})")),
    "an array": model_with(np.zeros(3)),
    "a tensor": model_with(torch.zeros(3)),
    "a class of ours": model_with(ChronosError("x")),
    "a registered extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pos.system\n.",
    "nothing": b"",
    "half a pickle": model_with({})[:-20],
    "a pickle of something else": pickle.dumps({"format": "chronos-ec2/linear"}),
    "another version": pickle.dumps({"format": FORMAT, "format_version": 99}),
    "no config": pickle.dumps({"format": FORMAT, "format_version": FORMAT_VERSION}),
    "weights that are none": model_with({"chronos_pipeline_class": "Chronos2Pipeline"}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_no_plain_model_is_refused_and_nothing_of_it_runs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.pkl").write_bytes(HOSTILE[kind])
    with pytest.raises(ChronosError):
        read_pickle(tmp_path / "m.pkl")
    assert not MARK.exists()
    assert not Path("pwned").exists()


def test_what_a_model_file_names_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(HOSTILE["a name"])
    with pytest.raises(ChronosError, match=r"it refers to (os|posix|nt)\.system"):
        read_pickle(tmp_path / "m.pkl")


@pytest.mark.parametrize("step", [1, 6, 9, 12])
def test_a_run_that_went_on_ends_with_the_same_bytes(
    train: Train, config: Config, waves: Path, whole: Outcome, step: int
) -> None:
    assert train(config(), waves, "--fail-at-step", str(step)).status == 3
    again = train(config(), waves)
    assert again.status == 0, again.stderr
    saved = (step - 1) // 4 * 4
    assert [event["step"] for event in again.all("resume")] == ([saved] if saved else [])
    assert again.weights() == whole.weights()
    assert again.losses() == whole.losses()[saved:]


def test_dropout_is_the_same_when_a_run_goes_on(
    train: Train, config: Config, waves: Path, tmp_path: Path
) -> None:
    path = config(model_config={**SMALL["model_config"], "dropout_rate": 0.2})  # type: ignore[dict-item]
    whole = train(path, waves, output=tmp_path / "whole")
    train(path, waves, "--fail-at-step", "7")
    assert train(path, waves).weights() == whole.weights()


def test_at_the_last_step_there_is_nothing_left_to_learn(
    train: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    before = whole.weights()
    again = train(config(), waves, output=whole.output)
    assert again.status == 0
    assert again.losses() == []
    assert again.one("train_end")["steps"] == 12
    assert again.weights() == before
    assert again.one("final")["metrics"]["WQL"] == whole.one("final")["metrics"]["WQL"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 0.5}, "another learning_rate (None then, 0.5 now)"),
        ({"seed": 3}, "another seed (0 then, 3 now)"),
        ({"max_steps": 13}, "another max_steps (12 then, 13 now)"),
        ({"batch_size": 16}, "another batch_size"),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_continued(
    train: Train, config: Config, waves: Path, whole: Outcome, changes: dict[str, Any], says: str
) -> None:
    refused = train(config(**changes), waves, output=whole.output)
    assert refused.status == 2
    assert says in refused.stderr
    assert train(config(**changes), waves, "--fresh", output=whole.output).status == 0


def test_a_checkpoint_of_other_data_is_not_continued(
    train: Train, config: Config, whole: Outcome, tmp_path: Path
) -> None:
    write_table(tmp_path / "other" / "f.parquet", {"target": {"a": wave(300, 9)}})
    refused = train(config(), tmp_path / "other", output=whole.output)
    assert refused.status == 2
    assert "another data: put it back" in refused.stderr


def test_a_checkpoint_of_another_precision_is_not_continued(
    train: Train, config: Config, waves: Path, whole: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU of another kind, where `auto` comes to the other one."""
    monkeypatch.setattr(learner, "_precision", lambda wanted, _device: "bf16" if wanted == "auto" else wanted)
    refused = train(config(), waves, output=whole.output)
    assert refused.status == 2
    assert "another precision ('fp32' then, 'bf16' now): set precision to what it was" in refused.stderr
    assert train(config(precision="fp32"), waves, output=whole.output).status == 0


def test_how_often_to_save_and_to_tell_may_change(
    train: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    assert train(config(save_steps=3, log_steps=2, eval_series=1), waves, output=whole.output).status == 0


def test_a_save_comes_before_the_score_of_its_step(whole: Outcome) -> None:
    said = [item["event"] for item in whole.events if item["event"] in ("checkpoint", "eval")]
    assert said == ["checkpoint", "eval"] * (len(said) // 2)


def test_a_gpu_that_was_asked_for_and_is_not_there_ends_the_run(
    train: Train, config: Config, waves: Path
) -> None:
    outcome = train(config(), waves, "--accelerator", "cuda")
    assert outcome.status == 1
    assert "a GPU was asked for (accelerator: cuda), and torch can use none: " in outcome.stderr
    assert outcome.events == []


@pytest.mark.parametrize("log_steps", [1, 50])
def test_a_loss_that_is_no_number_ends_the_run_without_result_or_checkpoint(
    train: Train, config: Config, waves: Path, log_steps: int
) -> None:
    outcome = train(config(log_steps=log_steps), waves, "--nan-at-step", "6")
    assert outcome.status == 1
    assert "the loss of step 6 is nan: no result was written; lower learning_rate" in outcome.stderr
    assert sorted(path.name for path in (outcome.output / "checkpoints").iterdir()) == ["checkpoint-4"]
    assert not (outcome.output / "models").exists()
    assert outcome.all("final") == []


def test_a_gradient_that_is_no_number_leaves_no_checkpoint_that_has_it(
    train: Train, config: Config, waves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of that step is sound, and the weights are gone: nothing may go on from there."""
    real = torch.nn.utils.get_total_norm

    def broken(gradients: list[torch.Tensor]) -> torch.Tensor:
        norms.append(real(gradients))
        return norms[-1] * float("inf") if len(norms) == 8 else norms[-1]

    norms: list[torch.Tensor] = []
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", broken)
    outcome = train(config(), waves)
    assert outcome.status == 1 and "the gradient of step 8 is inf" in outcome.stderr
    assert sorted(path.name for path in (outcome.output / "checkpoints").iterdir()) == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)",
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes: lower batch_size",
        ),
        ("std::bad_alloc", "std::bad_alloc: lower batch_size or context_length"),
    ],
)
def test_without_memory_it_says_so_and_what_to_lower(
    train: Train, config: Config, waves: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(learner.Learner, "update", fail)
    outcome = train(config(), waves)
    assert outcome.status == 2
    assert f"error: {told}" in outcome.stderr


def test_a_greatest_norm_of_0_leaves_the_gradient_as_it_is(train: Train, config: Config, waves: Path) -> None:
    outcome = train(config(max_grad_norm=0), waves)
    assert outcome.status == 0, outcome.stderr
    losses = outcome.losses()
    assert len(set(losses)) > 1 and losses[-1] < losses[0], "it learns"


def test_fine_tuning_starts_from_a_model_and_tells_what_it_could_before(
    train: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    start = whole.output / "models/chronos2"
    tuned = train(config(model_id=str(start), context_length=32, max_steps=3), waves)
    assert tuned.status == 0, tuned.stderr
    assert tuned.one("final")["baselines"]["zero_shot"]["WQL"] > 0
    core = json.loads((tuned.output / "models/chronos2/config.json").read_text())
    assert core["chronos_config"]["context_length"] == 48, "what it takes has not become shorter"
    assert core["chronos_config"]["time_encoding_scale"] == 48, "the scale that it has learned with"
    assert tuned.all("metric")[0]["lr"] == pytest.approx(1e-5)


def test_what_the_start_model_could_is_told_by_a_run_that_went_on_as_well(
    train: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    path = config(
        model_id=str(whole.output / "models/chronos2"), max_steps=4, save_steps=2, learning_rate=0.01
    )
    assert train(path, waves, "--fail-at-step", "4").status == 3
    again = train(path, waves)
    assert again.one("resume")["step"] == 2
    final = again.one("final")
    could = whole.one("final")["metrics"]
    assert final["baselines"]["zero_shot"] == pytest.approx({key: could[key] for key in ("WQL", "MASE")})
    assert final["metrics"]["WQL"] != pytest.approx(could["WQL"]), "it has learned since"


def change_dropout(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dropout_rate": 0.5}))


def change_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("change", [change_dropout, change_a_weight])
def test_a_checkpoint_of_another_start_model_is_not_continued(
    train: Train, config: Config, waves: Path, whole: Outcome, change: Callable[[Path], None]
) -> None:
    start = whole.output / "models/chronos2"
    assert train(config(model_id=str(start), max_steps=5), waves, "--fail-at-step", "5").status == 3
    change(start)
    refused = train(config(model_id=str(start), max_steps=5), waves)
    assert refused.status == 2
    assert "another start_model: put it back, or start over with --fresh" in refused.stderr


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "holds no Chronos-2 model"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "has no model.safetensors; weights in other formats run code",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), "no whole safetensors file"),
        (lambda folder: drop_a_weight(folder), "do not fit the model's config (missing_keys"),
    ],
    ids=["no config", "half a config", "another model", "a pickle", "half the weights", "a weight less"],
)
def test_a_start_model_that_is_none_is_refused(
    train: Train, config: Config, waves: Path, whole: Outcome, spoil: Callable[[Path], Any], says: str
) -> None:
    folder = whole.output / "models/chronos2"
    spoil(folder)
    refused = train(config(model_id=str(folder)), waves)
    assert refused.status == 2
    assert says in refused.stderr


def test_a_batch_that_cannot_be_shared_is_refused(train: Train, config: Config, waves: Path) -> None:
    refused = train(config(batch_size=9, gradient_accumulation_steps=2), waves)
    assert refused.status == 2
    assert "batch_size 9 must be a multiple of gradient_accumulation_steps" in refused.stderr


def test_taking_a_batch_in_parts_changes_nothing(
    train: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    parts = train(config(gradient_accumulation_steps=4), waves)
    np.testing.assert_allclose(parts.losses(), whole.losses(), rtol=1e-5)


def test_many_columns_are_forecast_together(train: Train, config: Config, tmp_path: Path) -> None:
    data = tmp_path / "data"
    columns = {name: {"a": wave(200, seed), "b": wave(150, seed + 9)} for seed, name in enumerate("xyzk")}
    write_table(data / "f.parquet", columns)
    outcome = train(config(target=["x", "y"], past_covariates=["z"], known_covariates=["k"]), data)
    assert outcome.status == 0, outcome.stderr
    table = pq.read_table(outcome.output / "forecasts.parquet").to_pandas()
    assert table.groupby(["item_id", "variate"]).size().to_dict() == {
        (item, variate): 8 for item in "ab" for variate in "xy"
    }
    told = table[(table.item_id == "b") & (table.variate == "y")].target.to_numpy(dtype=np.float32)
    np.testing.assert_array_equal(told, np.asarray(columns["y"]["b"][-8:], dtype=np.float32))
    assert math.isfinite(outcome.one("final")["metrics"]["MASE"])


def test_a_column_that_was_never_seen_before_is_scored_by_nobody(
    train: Train, config: Config, tmp_path: Path
) -> None:
    data, fresh = tmp_path / "data", wave(200, 2)
    fresh[:-4] = np.nan
    write_table(data / "f.parquet", {"x": {"a": wave(200, 1)}, "y": {"a": fresh}})
    outcome = train(config(target=["x", "y"], known_covariates=[]), data)
    assert outcome.status == 0, outcome.stderr
    final = outcome.one("final")
    naive = final["baselines"]["seasonal_naive"]
    assert all(
        math.isfinite(figures[name]) for figures in (final["metrics"], naive) for name in ("WQL", "MASE")
    )


def test_a_checkpoint_that_is_asked_for_is_written_at_the_next_step(
    train: Train, config: Config, waves: Path, tmp_path: Path
) -> None:
    (tmp_path / "out put/checkpoints").mkdir(parents=True)
    (tmp_path / "out put/checkpoints/.requested").touch()
    outcome = train(config(save_steps=100), waves)
    assert not (tmp_path / "out put/checkpoints/.requested").exists()
    assert [event["step"] for event in outcome.all("checkpoint")] == [12], (
        "nothing is there to save before step 1"
    )
