"""The last lines of a demo: how the run ended, how good the model is, where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from chronos_ec2.errors import NoSuchRun
from chronos_ec2.report.run_files import mapping, number
from chronos_ec2.state.clock import from_text
from chronos_ec2.state.json_text import decode_json
from chronos_ec2.words import one_line


def print_summary(folder: Path, out: TextIO) -> None:
    """Describe a fetched run.

    Args:
        folder: what `fetch` made, with `run.json` in it.

    Raises:
        NoSuchRun: the folder has no record of a run.
    """
    try:
        record = decode_json((folder / "run.json").read_bytes())
        heading = _heading(record)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoSuchRun(f"{folder} has no readable run.json: {error!r}") from error
    out.write(f"\n{one_line(heading)}\n")
    for line in _quality(mapping(record.get("metrics"))):
        out.write(line + "\n")
    out.write("\nwhere everything lies\n")
    for name, meaning in _FILES.items():
        if (folder / name).exists():
            out.write(f"  {folder / name}  {meaning}\n")


_FILES = {
    "report.html": "the run on one page: forecasts, errors, curves, time, machine, cost",
    "models/model.pkl": "the model",
    "forecasts.parquet": "its forecasts for the held-out window, with quantiles",
    "training.json": "metrics, baselines, versions, data facts",
    "run.json": "the record of the run: intent, outcome, timings",
    "tensorboard": "the curves, for tensorboard --logdir",
    "config.yaml": "what it was asked to do",
    "logs/bootstrap.log": "everything the instance said",
}


def _heading(record: dict[str, Any]) -> str:
    """`run 2025-01-15-143022: failed after 45 s at training: exit 3`."""
    if record["ended_at"] is None:
        return f"run {record['run_id']}: not ended yet"
    seconds = (from_text(record["ended_at"]) - from_text(record["started_at"])).total_seconds()
    why = f" at {record['failed_step']}: {record['error']}" if record["error"] else ""
    return f"run {record['run_id']}: {record['outcome']} after {seconds:.0f} s{why}"


def _quality(metrics: Mapping[str, Any]) -> list[str]:
    """A small table of the model's errors beside the seasonal-naive baseline's."""
    naive = mapping(mapping(metrics.get("baselines")).get("seasonal_naive"))
    rows = []
    for name in ("WQL", "MASE"):
        value, beside = number(metrics.get(name)), number(naive.get(name))
        if value is None:
            continue
        row = f"  {name:<5} model {value:.4f}"
        if beside:
            better = 100 * (1 - value / beside)
            word = "better" if better >= 0 else "worse"
            row += f"   seasonal naive {beside:.4f}   {abs(better):.0f} % {word}"
        rows.append(row)
    return ["error on the held-out window (lower is better)", *rows] if rows else []
