"""The last lines of a demo: how the run ended, how good the model is, where everything lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from chronos_ec2.errors import NoSuchRun
from chronos_ec2.state.clock import from_text


def print_summary(folder: Path, out: TextIO) -> None:
    """Describe a fetched run.

    Args:
        folder: what `fetch` made, with `run.json` in it.

    Raises:
        NoSuchRun: the folder has no record of a run.
    """
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise NoSuchRun(f"{folder} has no readable run.json: {error}") from error
    seconds = (from_text(record["ended_at"]) - from_text(record["started_at"])).total_seconds()
    out.write(f"\nrun {record['run_id']}: {record['outcome']} after {seconds:.0f} s")
    out.write(f" at {record['failed_step']}: {record['error']}\n" if record["error"] else "\n")
    for line in _quality(record.get("metrics") or {}):
        out.write(line + "\n")
    out.write("\nwhere everything lies\n")
    for name, meaning in _FILES.items():
        if (folder / name).exists():
            out.write(f"  {folder / name}  {meaning}\n")


_FILES = {
    "models/model.pkl": "the model",
    "forecasts.parquet": "its forecasts for the held-out window, with quantiles",
    "training.json": "metrics, baselines, versions, data facts",
    "run.json": "the record of the run: intent, outcome, timings",
    "config.yaml": "what it was asked to do",
    "logs/bootstrap.log": "everything the instance said",
}


def _quality(metrics: dict[str, Any]) -> list[str]:
    """A small table of the model's errors beside the seasonal-naive baseline's."""
    naive = (metrics.get("baselines") or {}).get("seasonal_naive") or {}
    rows = []
    for name in ("WQL", "MASE"):
        if metrics.get(name) is None:
            continue
        row = f"  {name:<5} model {metrics[name]:.4f}"
        if naive.get(name):
            better = 100 * (1 - metrics[name] / naive[name])
            row += f"   seasonal naive {naive[name]:.4f}   {better:.0f} % better"
        rows.append(row)
    return ["error on the held-out window (lower is better)", *rows] if rows else []
