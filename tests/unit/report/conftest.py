"""A run's folder as the test trainer leaves it, with a record and samples beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronos_ec2.report.page import report_page
from chronos_ec2.report.page_parts import PageParts
from chronos_ec2.report.run_files import read_run
from chronos_ec2.state.clock import to_milliseconds, to_text
from chronos_ec2.workstation.settings import REPOSITORY
from chronos_ec2.workstation.toolchain import report_library

RUN = "2025-01-15-143022"
START = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)
END = START + timedelta(minutes=20)
OWN = "document.title='owned'"
HOSTILE = f'</script><script>{OWN}</script>"\'><img src=x onerror="{OWN}">&amp;{{{{7*7}}}}'
PARTS = PageParts(REPOSITORY / "templates" / "report", report_library())


def trained(folder: Path, names: list[str]) -> Path:
    """A folder with all that the real test trainer makes of some series of these names."""
    data, run = folder / "data", folder / RUN
    data.mkdir(parents=True)
    run.mkdir()
    hours, random = 24 * 12, np.random.default_rng(1)
    rows: dict[str, list[Any]] = {"item_id": [], "timestamp": [], "target": []}
    for place, name in enumerate(names):
        wave = 10 + 5 * np.sin(np.arange(hours) * 2 * np.pi / 24) + random.normal(0, 1 + place, hours)
        rows["item_id"] += [name] * hours
        rows["timestamp"] += [datetime(2025, 1, 1) + timedelta(hours=hour) for hour in range(hours)]
        rows["target"] += wave.tolist()
    pq.write_table(pa.table(rows), data / "waves.parquet")
    config = {"prediction_length": 24, "context_length": 48, "max_steps": 30, "seed": 0}
    settings = {"run_id": RUN, "environment": "dev", "accelerator": "cpu", "heartbeat_seconds": 4}
    text = json.dumps({**settings, "trainer": "test", "command": [], "training_config": config})
    (run / "config.yaml").write_text(text)
    wrapper = [
        sys.executable,
        str(REPOSITORY / "python/training_wrapper.py"),
        "--config",
        str(run / "config.yaml"),
    ]
    done = subprocess.run(
        [*wrapper, "--data", str(data), "--output", str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(sample(second)) + "\n" for second in range(0, 1200, 10))
    (run / "preflight.json").write_text(
        '{"ok": true, "checks": [{"name": "disk", "ok": true, "detail": "40 GB"}]}'
    )
    (run / "run.json").write_text(
        json.dumps(record(json.loads((run / "training.json").read_text())["metrics"]))
    )
    return run


def sample(second: int) -> dict[str, Any]:
    """What the sampler writes."""
    gpu = {"index": 0, "util_percent": 90, "memory_bytes": 12e9, "memory_total_bytes": 16e9}
    moment = to_text(START + timedelta(seconds=second))
    rates = {
        f"{name}_bytes_per_second": 1e6 for name in ("network_in", "network_out", "disk_read", "disk_write")
    }
    memory = {"memory_bytes": 8e9, "memory_total_bytes": 32e9}
    return {"t": moment, "source": "sampler", "cpu_percent": 40.0, **memory, **rates, "gpus": [gpu]}


def record(metrics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A run.json of a run that succeeded."""
    phases = [
        {"name": name, "started_at": to_text(START + timedelta(seconds=at)), "seconds": long, "outcome": "ok"}
        for name, at, long in (("initialization", 40, 5.0), ("training", 60, 1000.0), ("cleanup", 1190, 1.0))
    ]
    cost = {
        "compute": 0.25,
        "disk": 0.004,
        "requests": 0.001,
        "address": 0.002,
        "total": 0.257,
        "seconds": 1190,
    }
    return {
        "run_id": RUN,
        "environment": "dev",
        "outcome": "succeeded",
        "started_at": to_text(START),
        "launched_at": to_text(START + timedelta(seconds=8)),
        "ended_at": to_text(END),
        "failed_step": None,
        "error": None,
        "exit_code": 0,
        "requested_by": "arn:aws:iam::123456789012:user/ana",
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "instance": {"id": "i-0abc", "type": "g4dn.2xlarge", "market": "spot"},
        "ami": {"id": "ami-0abc"},
        "dataset": {"series": 4, "rows": 1152, "files": [{"name": "waves.parquet", "bytes": 20000}]},
        "phases": phases,
        "timeline": {
            name: to_milliseconds(START + timedelta(seconds=at))
            for name, at in (
                ("launch_accepted", 8),
                ("environment_ready", 40),
                ("first_step", 60),
                ("last_step", 1060),
            )
        },
        "cost_usd": cost,
        "metrics": metrics,
        **changes,
    }


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four series."""
    return trained(tmp_path_factory.mktemp("plain"), ["calm", "fair", "rough", "wild"])


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every text that comes from outside tries to become part of the page."""
    run = trained(tmp_path_factory.mktemp("hostile"), [f"a{HOSTILE}", f"b{HOSTILE}", "c"])
    (run / "config.yaml").write_text(f"trainer: {HOSTILE}\n")
    told = record(
        {}, error=HOSTILE, outcome="failed", failed_step=HOSTILE, requested_by=HOSTILE, environment=HOSTILE
    )
    told["phases"][0]["name"] = told["instance"]["type"] = told["dataset"]["files"][0]["name"] = HOSTILE
    (run / "run.json").write_text(json.dumps(told))
    checks = [{"name": HOSTILE, "ok": False, "detail": HOSTILE, "remedy": HOSTILE}]
    (run / "preflight.json").write_text(json.dumps({"checks": checks}))
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"event": "metric", "step": step, HOSTILE: step}) + "\n" for step in (1, 2, 3)
        )
    return run


@pytest.fixture
def write_page(tmp_path: Path) -> Callable[[Path], Path]:
    """Make the report of a folder."""

    def write(folder: Path) -> Path:
        page = tmp_path / "a report #1.html"
        page.write_text(report_page(read_run(folder), PARTS, END), encoding="utf-8")
        return page

    return write
