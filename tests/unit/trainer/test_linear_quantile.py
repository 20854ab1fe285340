"""The trainer as the wrapper sees it: a process, its events, its exit status and its files."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from chronos_ec2.instance.metrics import QUANTILE_LEVELS, weighted_quantile_loss
from chronos_ec2.instance.trainers.artifact import load_model

from .conftest import COMMAND, SMALL, Outcome, arguments, wave, write_series

Train = Callable[..., Outcome]
Config = Callable[..., Path]


def test_it_beats_the_seasonal_naive_forecast_on_the_weather(
    train_apart: Train, config: Config, weather: Path
) -> None:
    outcome = train_apart(config(prediction_length=64, context_length=512), weather)
    assert outcome.status == 0, outcome.stderr
    final = outcome.one("final")
    naive = final["baselines"]["seasonal_naive"]
    assert naive["season_length"] == 24
    assert final["metrics"]["WQL"] < 0.75 * naive["WQL"]
    assert final["metrics"]["MASE"] < 0.95 * naive["MASE"]
    assert (final["series"], final["rows"], final["metrics"]["steps"]) == (15, 130_950, 300)
    (warning,) = outcome.all("warning")
    assert warning["message"].endswith(" targets are missing (0.3%): nothing is learned from them")

    losses = [event["loss"] for event in outcome.all("metric")]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert [event["step"] for event in outcome.all("eval")] == [100, 200, 300]
    start = outcome.one("start")
    assert (start["series"], start["step"], start["max_steps"], start["world_size"]) == (15, 0, 300, 1)
    assert set(start["versions"]) == {"python", "numpy", "pyarrow"}
    assert [event["event"] for event in outcome.events][-2:] == ["train_end", "final"]

    check_forecasts(outcome, weather)


def check_forecasts(outcome: Outcome, weather: Path) -> None:
    """The forecasts file, made again from model and data, gives the metrics that were reported."""
    final = outcome.one("final")
    table = pq.read_table(outcome.output / final["forecasts_path"])
    assert table.column_names == [
        "item_id",
        "timestamp",
        "target",
        "seasonal_naive",
        "seasonal_error",
        *(str(level) for level in QUANTILE_LEVELS),
    ]
    assert table.num_rows == 15 * 64
    frame = table.to_pandas()
    quantiles = frame[[str(level) for level in QUANTILE_LEVELS]].to_numpy().reshape(15, 64, 9)
    targets = frame.target.to_numpy().reshape(15, 64)
    assert weighted_quantile_loss(targets, quantiles) == pytest.approx(final["metrics"]["WQL"])
    data = pq.read_table(weather / "JFK.parquet").to_pandas()
    temp = data[data.item_id == "JFK/temp"]
    written = frame[frame.item_id == "JFK/temp"]
    assert (written.timestamp.to_numpy() == temp.timestamp.to_numpy()[-64:]).all()
    np.testing.assert_allclose(written.target, temp.target[-64:], rtol=1e-6)
    model = load_model(outcome.output / final["model_path"])
    again = model.forecast(temp.target.to_numpy()[:-64])[0]
    np.testing.assert_allclose(
        written[[str(level) for level in QUANTILE_LEVELS]], again, rtol=1e-4, atol=1e-3
    )


def model_bytes(outcome: Outcome) -> bytes:
    assert outcome.status == 0, outcome.stderr
    return (outcome.output / "models" / "model.pkl").read_bytes()


def test_a_run_that_crashed_and_went_on_ends_with_the_same_bytes(
    train_apart: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    settings = config(**SMALL)
    crashed = train_apart(settings, waves, "--crash-at-step", "33")
    assert crashed.status == 70
    assert crashed.events[-1]["step"] == 30
    assert not (crashed.output / "models").exists()
    resumed = train_apart(settings, waves)
    assert resumed.one("resume") == {"event": "resume", "step": 30, "path": "checkpoints/checkpoint-30"}
    assert resumed.one("start")["step"] == 30
    assert model_bytes(resumed) == model_bytes(whole)
    assert resumed.all("eval")[-1] == whole.all("eval")[-1]
    assert (resumed.output / "forecasts.parquet").read_bytes() == (
        whole.output / "forecasts.parquet"
    ).read_bytes()


def test_going_on_at_the_last_step_trains_nothing_and_finishes(
    train: Train, config: Config, waves: Path
) -> None:
    first = train(config(**SMALL), waves)
    before = model_bytes(first)
    again = train(config(**SMALL), waves)
    assert again.all("metric") == []
    assert again.one("final") == first.one("final")
    assert model_bytes(again) == before


def test_a_damaged_checkpoint_is_warned_of_and_the_one_before_is_taken(
    train_apart: Train, config: Config, waves: Path, whole: Outcome
) -> None:
    crashed = train_apart(config(**SMALL), waves, "--crash-at-step", "33")
    (crashed.output / "checkpoints" / "checkpoint-30" / "manifest.json").unlink()
    resumed = train_apart(config(**SMALL), waves)
    assert resumed.one("resume")["step"] == 20
    assert "checkpoint-30" in resumed.one("warning")["message"]
    assert model_bytes(resumed) == model_bytes(whole)


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"learning_rate": 0.5}, "another learning_rate (0.001 then, 0.5 now)"), ({"seed": 9}, "another seed")],
)
def test_a_checkpoint_of_other_settings_is_refused_and_fresh_starts_over(
    train: Train, config: Config, waves: Path, changed: dict[str, Any], says: str
) -> None:
    train(config(**SMALL), waves, "--fail-at-step", "15")
    refused = train(config(**{**SMALL, **changed}), waves)
    assert refused.status == 2
    assert says in refused.stderr
    fresh = train(config(**{**SMALL, **changed}), waves, "--fresh")
    assert fresh.status == 0
    assert fresh.one("start")["step"] == 0


def test_a_checkpoint_of_other_data_is_refused(
    train: Train, config: Config, waves: Path, tmp_path: Path
) -> None:
    train(config(**SMALL), waves, "--fail-at-step", "15")
    write_series(tmp_path / "other", "a.parquet", {"a": wave(300, 9)})
    refused = train(config(**SMALL), tmp_path / "other")
    assert refused.status == 2
    assert "another data" in refused.stderr


def test_a_checkpoint_that_is_asked_for_is_made_at_once_and_changes_no_byte(
    train_apart: Train, config: Config, waves: Path, whole: Outcome, tmp_path: Path
) -> None:
    request = tmp_path / "out put" / "checkpoints" / ".requested"
    request.parent.mkdir(parents=True)
    request.touch()
    asked = train_apart(config(**SMALL), waves)
    assert [event["step"] for event in asked.all("checkpoint")] == [1, 10, 20, 30, 40]
    assert not request.exists()
    assert model_bytes(asked) == model_bytes(whole)


def test_how_often_to_save_may_change_on_the_way(train: Train, config: Config, waves: Path) -> None:
    train(config(**SMALL), waves, "--fail-at-step", "15")
    assert train(config(**{**SMALL, "save_steps": 7, "log_steps": 3}), waves).status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leads_to_a_checkpoint_and_75_even_of_a_trainer_that_hangs(
    train_apart: Train, config: Config, waves: Path, whole: Outcome, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "stopped"
    events, status = stop_while_it_hangs(config(**SMALL), waves, output, number)
    assert status == 75
    assert [(event["event"], event.get("step")) for event in events[-3:-1]] == [
        ("metric", 15),
        ("checkpoint", 15),
    ]
    assert events[-1] == {"event": "train_end", "steps": 15, "interrupted": True} | events[-1]
    assert (output / events[-2]["path"] / "manifest.json").is_file()
    assert not (output / "models").exists()
    resumed = train_apart(config(**SMALL), waves, output=output)
    assert resumed.one("start")["step"] == 15
    assert model_bytes(resumed) == model_bytes(whole)


def stop_while_it_hangs(
    config: Path, data: Path, output: Path, number: signal.Signals
) -> tuple[list[dict[str, Any]], int]:
    """Let the trainer hang after step 15, between two checkpoints, and send it a signal."""
    command = [*COMMAND, *arguments(config, data, output), "--hang-at-step", "16"]
    events = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if (events[-1]["event"], events[-1].get("step")) == ("metric", 15):
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=0.3)
                process.send_signal(number)
        return events, process.wait(timeout=20)


def test_failing_on_request_exits_3_and_says_so(train: Train, config: Config, waves: Path) -> None:
    outcome = train(config(**SMALL), waves, "--fail-at-step", "5")
    assert outcome.status == 3
    assert "error: failing before step 5" in outcome.stderr
    assert outcome.all("final") == outcome.all("train_end") == []


def test_a_loss_that_is_no_number_ends_the_run(train: Train, config: Config, waves: Path) -> None:
    outcome = train(config(**SMALL), waves, "--nan-at-step", "15")
    assert outcome.status == 1
    assert "the loss of step 15 is nan" in outcome.stderr
    assert outcome.all("final") == []
    assert not (outcome.output / "models").exists()
    assert train(config(**SMALL), waves).one("resume")["step"] == 10


def test_the_held_out_values_have_no_influence_on_the_weights(
    train: Train, config: Config, waves: Path, tmp_path: Path
) -> None:
    changed = {"a": wave(300, 1), "b": wave(260, 2)}
    for values in changed.values():
        values[-SMALL["prediction_length"] :] = -1000
    write_series(tmp_path / "changed", "a.parquet", changed)
    plain = train(config(**SMALL), waves, output=tmp_path / "o1")
    other = train(config(**SMALL), tmp_path / "changed", output=tmp_path / "o2")
    assert plain.one("final")["metrics"]["WQL"] != other.one("final")["metrics"]["WQL"]
    weights = [load_model(run.output / "models/model.pkl").weights for run in (plain, other)]
    np.testing.assert_array_equal(*weights)


def test_missing_values_anywhere_are_trained_and_scored_around(
    train: Train, config: Config, tmp_path: Path
) -> None:
    values = wave(300, 1)
    values[np.random.default_rng(0).random(300) < 0.2] = np.nan
    gone = wave(300, 2)
    gone[-8:] = np.nan
    short = wave(20)
    write_series(tmp_path / "data", "a.parquet", {"holes": values, "no end": gone, "short": short})
    outcome = train(config(**SMALL), tmp_path / "data")
    assert outcome.status == 0, outcome.stderr
    metrics = outcome.one("final")["metrics"]
    assert 0 < metrics["WQL"] < 1
    assert 0 < metrics["MASE"] < 5
    assert outcome.one("start")["dropped_short"] == 1
    told = [item["message"].partition(" ")[2] for item in outcome.all("warning")]
    assert told == [
        "series too short or with nothing to learn from, left out",
        "targets are missing (11.0%): nothing is learned from them",
        "series have no target in their last 8 rows: they are not scored",
    ]


def test_metrics_that_are_not_defined_are_null_and_no_failure(
    train: Train, config: Config, tmp_path: Path
) -> None:
    write_series(tmp_path / "data", "a.parquet", {"zero": np.zeros(300)})
    outcome = train(config(**SMALL), tmp_path / "data")
    assert outcome.status == 0, outcome.stderr
    assert outcome.one("final")["metrics"]["WQL"] is None
    assert outcome.one("final")["metrics"]["MASE"] is None


@pytest.mark.parametrize(
    ("step", "season", "season_length"),
    [("1D", 7, None), ("30m", 48, None), ("1h", 5, 5)],
    ids=["days", "half", "set"],
)
def test_the_season_comes_from_the_spacing_or_the_settings(
    train: Train, config: Config, tmp_path: Path, step: str, season: int, season_length: int | None
) -> None:
    write_series(tmp_path / "data", "a.parquet", {"a": wave(300)}, step=step)
    outcome = train(config(**SMALL, season_length=season_length), tmp_path / "data")
    assert outcome.one("final")["baselines"]["seasonal_naive"]["season_length"] == season


def test_wrong_settings_and_flags_exit_2_and_bad_data_1(
    train: Train, config: Config, waves: Path, tmp_path: Path
) -> None:
    unknown = train(config(max_stepz=3), waves)
    assert unknown.status == 2
    assert "training_config.max_stepz is unknown; did you mean max_steps?" in unknown.stderr
    assert train(tmp_path / "none.yaml", waves).status == 2
    assert train(config(), waves, "--no-such-flag").status == 2
    too_short = train(config(), waves)
    assert too_short.status == 1
    assert "the longest has 300 rows and training needs 640" in too_short.stderr
    for outcome in (unknown, too_short):
        assert outcome.events == []
        assert "Traceback" not in outcome.stderr


def test_an_output_that_cannot_be_written_is_one_clear_line(
    train: Train, config: Config, waves: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = train(config(**SMALL), waves, output=tmp_path / "file")
    assert outcome.status == 1
    assert outcome.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in outcome.stderr


def test_a_reader_that_goes_away_ends_the_trainer(config: Config, waves: Path, tmp_path: Path) -> None:
    command = [
        *COMMAND,
        "--config",
        str(config(**SMALL)),
        "--data",
        str(waves),
        "--output",
        str(tmp_path / "o"),
    ]
    with subprocess.Popen(
        [*command, "--step-seconds", "0.05"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=20) == 1
        text = process.stderr.read()
    assert "nobody reads the events" in text
    assert "Traceback" not in text
