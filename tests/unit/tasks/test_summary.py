"""The last lines of a demo."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import NoSuchRun
from chronos_ec2.workstation.summary import print_summary

RECORD: dict[str, Any] = {
    "run_id": "2025-01-15-143022",
    "outcome": "succeeded",
    "started_at": "2025-01-15T14:30:22Z",
    "ended_at": "2025-01-15T14:31:07Z",
    "failed_step": None,
    "error": None,
    "metrics": {
        "WQL": 0.1687,
        "MASE": 0.9557,
        "baselines": {"seasonal_naive": {"season_length": 24, "WQL": 0.2627, "MASE": 1.0655}},
    },
}


def said(folder: Path, **changes: Any) -> str:
    (folder / "run.json").write_text(json.dumps({**RECORD, **changes}))
    out = io.StringIO()
    print_summary(folder, out)
    return out.getvalue()


def test_the_outcome_the_time_and_the_error_beside_the_baselines(tmp_path: Path) -> None:
    text = said(tmp_path)
    assert "run 2025-01-15-143022: succeeded after 45 s\n" in text
    assert "WQL   model 0.1687   seasonal naive 0.2627   36 % better" in text
    assert "MASE  model 0.9557   seasonal naive 1.0655   10 % better" in text
    assert "lower is better" in text


def test_a_model_that_is_worse_is_said_to_be_worse(tmp_path: Path) -> None:
    metrics = {**RECORD["metrics"], "WQL": 0.5254}
    assert "100 % worse" in said(tmp_path, metrics=metrics)


def test_a_failure_says_where_and_why(tmp_path: Path) -> None:
    text = said(tmp_path, outcome="failed", failed_step="training", error="exit 3", metrics=None)
    assert "failed after 45 s at training: exit 3\n" in text
    assert "WQL" not in text


@pytest.mark.parametrize(
    "metrics",
    [None, {}, {"WQL": None}, {"steps": 3}, {"baselines": None}, {"baselines": {"seasonal_naive": None}}],
)
def test_metrics_that_are_not_there_are_left_out(metrics: Any, tmp_path: Path) -> None:
    assert "lower is better" not in said(tmp_path, metrics=metrics)


@pytest.mark.parametrize("baselines", [None, {}, {"seasonal_naive": {"WQL": 0}}])
def test_a_model_without_a_baseline_stands_alone(baselines: Any, tmp_path: Path) -> None:
    text = said(tmp_path, metrics={"WQL": 0.25, "baselines": baselines})
    assert "  WQL   model 0.2500\n" in text


def test_a_run_without_an_end_has_no_time(tmp_path: Path) -> None:
    text = said(tmp_path, ended_at=None, outcome=None, metrics=None)
    assert "run 2025-01-15-143022: not ended" in text


def test_only_files_that_are_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.pkl").touch()
    text = said(tmp_path)
    assert f"{tmp_path}/models/model.pkl  the model" in text
    assert f"{tmp_path}/run.json  " in text
    assert "forecasts.parquet" not in text


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_a_folder_without_a_record_is_no_run(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(NoSuchRun, match=r"no readable run\.json"):
        print_summary(tmp_path, io.StringIO())
