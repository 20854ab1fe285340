"""What is on the report, of whatever a run has left."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronos_ec2.instance.metrics import (
    MEDIAN,
    QUANTILE_LEVELS,
    mean_absolute_scaled_error,
    weighted_quantile_loss,
)
from chronos_ec2.metrics_log import MetricsLog
from chronos_ec2.report.charts import thinned
from chronos_ec2.report.curves import training_curves
from chronos_ec2.report.facts import data_facts
from chronos_ec2.report.forecasts import read_forecasts
from chronos_ec2.report.run_files import READ, RunFiles
from chronos_ec2.report.series_errors import best_median_worst, mase_by_series, wql_by_series

from .conftest import RUN, record

Write = Callable[[Path], Path]


def test_the_errors_of_a_series_are_the_metrics_of_that_series_alone() -> None:
    make = np.random.default_rng(0)
    lengths = [5, 1, 8]
    starts = np.array([0, 5, 6])
    target = make.normal(size=14)
    target[[1, 7]] = np.nan
    quantiles = np.sort(make.normal(size=(14, 9)), axis=1)
    scale = np.repeat([0.5, 2.0, 0.0], lengths)
    wql = wql_by_series(target, quantiles, QUANTILE_LEVELS, starts)
    mase = mase_by_series(target, quantiles[:, MEDIAN], scale, starts)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        rows = slice(start, start + length)
        assert wql[number] == pytest.approx(weighted_quantile_loss(target[rows][None], quantiles[rows][None]))
        alone = mean_absolute_scaled_error(target[rows][None], quantiles[rows, MEDIAN][None], [scale[start]])
        assert mase[number] == pytest.approx(alone, nan_ok=True)


def test_best_median_and_worst_are_different_series_and_leave_out_what_has_no_error() -> None:
    assert best_median_worst(np.array([3.0, np.nan, 1.0, 2.0, 9.0])) == {"best": 2, "median": 3, "worst": 4}
    assert best_median_worst(np.array([3.0, 1.0])) == {"best": 1, "worst": 0}
    assert best_median_worst(np.array([np.nan, 4.0])) == {"best": 1}
    assert best_median_worst(np.array([np.nan])) == {}


def test_a_long_curve_keeps_its_ends_and_its_peaks() -> None:
    points = [(float(step), 1.0) for step in range(100_000)]
    points[51_234] = (51_234.0, 99.0)
    points[70_001] = (70_001.0, -99.0)
    kept = thinned(points, 200)
    assert len(kept) <= 200
    assert kept == sorted(kept)
    assert {points[0], points[51_234], points[70_001], points[-1]} <= set(kept)


def test_the_examples_show_the_time_before_and_the_naive_forecast(plain_run: Path) -> None:
    found = read_forecasts(plain_run)
    assert found is not None
    assert [chart.title.split(":")[0] for chart in found.examples] == ["Best", "Median", "Worst"]
    assert found.examples[2].title.startswith("Worst: wild")
    chart = found.examples[0]
    lines = {line.label: line.values for line in chart.lines}
    assert len(chart.x) == 24 * 4 + 24
    assert chart.x == sorted(chart.x)
    assert None not in lines["actual"]
    assert lines["forecast (median)"][:96] == [None] * 96
    assert None not in lines["seasonal naive"][96:]
    assert all(low <= high for low, high in zip(lines["10%"][96:], lines["90%"][96:], strict=True))  # type: ignore[operator]
    assert (found.series, found.compared) == (4, 4)
    assert found.ranking is not None


def test_all_of_a_run_is_on_its_page(plain_run: Path, write_page: Write) -> None:
    text = write_page(plain_run).read_text()
    for part in (
        *(
            "succeeded",
            "20 min 00 s",
            "$0.26",
            "g4dn.2xlarge spot",
            "0123456789abcdef with uncommitted changes",
        ),
        *(
            "seasonal naive",
            "waves.parquet",
            "Model parameters",
            "max_steps",
            "40 GB",
            "S3 requests",
            "Training loss",
        ),
    ):
        assert part in text, part
    assert "Not in this report" not in text
    assert "What went wrong" not in text
    assert len(text) < 400_000
    assert "<p>Billed 19 min 50 s, trained 16 min 40 s (84 %); the rest: " in text
    assert "start of the machine 32 s" in text


def test_a_failed_run_says_what_failed_and_what_to_do(
    plain_run: Path, write_page: Write, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    told = record(
        {}, outcome="failed", failed_step="gpu_preflight", error="preflight: disk: 3 GB free", exit_code=1
    )
    (run / "run.json").write_text(json.dumps(told))
    checks = [{"name": "disk", "ok": False, "detail": "3 GB free", "remedy": "raise volume_gb"}]
    (run / "preflight.json").write_text(json.dumps({"checks": checks}))
    text = write_page(run).read_text()
    for part in ("What went wrong", "gpu_preflight", "preflight: disk: 3 GB free", "disk: raise volume_gb"):
        assert part in text
    assert "training.json is not there" in text


@pytest.mark.parametrize(
    ("changes", "advised"),
    [
        (
            {"outcome": "failed", "error": "deadline reached: saved", "checkpoint_step": 80},
            f"its deadline ended the run; go on with invoke launch --env dev --resume {RUN}",
        ),
        (
            {"outcome": "interrupted", "error": "taken back", "resume_from": "2025-01-14-080000"},
            "go on with invoke launch --env dev --resume 2025-01-14-080000",
        ),
        ({"outcome": "launch_failed", "error": "quota"}, "the run never had a machine"),
    ],
)
def test_it_advises_what_watch_advises(
    changes: dict[str, Any], advised: str, write_page: Write, tmp_path: Path
) -> None:
    told = record({}, failed_step="training", **changes)
    (tmp_path / "run.json").write_text(json.dumps(told))
    text = write_page(tmp_path).read_text()
    assert advised in text
    assert ("invoke logs" in text) == (changes["outcome"] not in ("failed", "interrupted", "launch_failed"))


def test_a_forecast_without_a_time_costs_the_forecasts_alone(
    plain_run: Path, write_page: Write, tmp_path: Path
) -> None:
    run = shutil.copytree(plain_run, tmp_path / "run")
    stored = pq.read_table(run / "forecasts.parquet")
    times = [None, *stored["timestamp"].to_pylist()[1:]]
    place = stored.column_names.index("timestamp")
    stored = stored.set_column(place, "timestamp", pa.array(times, stored["timestamp"].type))
    pq.write_table(stored, run / "forecasts.parquet")
    text = write_page(run).read_text()
    assert "forecasts: ValueError: a row without a timestamp" in text and "Training loss" in text


@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_missing_or_broken_costs_its_part_alone(
    name: str, plain_run: Path, write_page: Write, tmp_path: Path
) -> None:
    run = shutil.copytree(plain_run, tmp_path / "run")
    whole = (run / name).read_bytes()
    noise = random.Random(name).randbytes(len(whole))
    for body in (
        None,
        b"",
        whole[: len(whole) // 2],
        noise,
        b"[1, 2]",
        b'{"phases": 3, "cost_usd": [], "git": "x"}',
    ):
        if body is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(body)
        text = write_page(run).read_text()
        assert text.rstrip().endswith("</html>")
        assert ("calm" in text) or name in ("forecasts.parquet", "forecast_history.parquet")


def test_a_folder_without_anything_is_a_page_that_says_so(write_page: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = write_page(tmp_path / "empty").read_text()
    assert "unknown" in text
    assert "run.json is not there" in text


def test_what_of_the_data_was_not_used_is_on_the_page(tmp_path: Path) -> None:
    training = {
        "data": {
            "series": 3,
            "rows": 300,
            "dropped_short": 1000,
            "gaps": 0,
            "unscored": 1,
            "missing_share": 0.25,
        },
        "warnings": ["1000 series left out"],
    }
    uploaded = {"dataset": {"series": 1003, "rows": 300, "files": [{"name": "a.parquet", "bytes": 7}]}}
    assert data_facts(RunFiles(tmp_path, record=uploaded, training=training)) == [
        ("Series", "3 of 1,003"),
        ("Rows", "300"),
        ("Series left out", "1,000"),
        ("Series not scored", "1"),
        ("Targets missing", "25.0 %"),
        ("a.parquet", "7 B"),
        ("Warning", "1000 series left out"),
    ]


@pytest.mark.parametrize(("scored", "label"), [(4, "seasonal naive"), (2, "seasonal naive of all series")])
def test_a_curve_of_some_series_says_that_its_baseline_is_of_all(scored: int, label: str) -> None:
    told = tuple({"event": "eval", "step": step, "WQL": 0.1, "series": scored} for step in (1, 2))
    training = {"baselines": {"seasonal_naive": {"WQL": 0.2}}, "data": {"series": 4}}
    (chart,) = training_curves(MetricsLog(training=told), training)
    assert [line.label for line in chart.lines] == ["WQL", label]
