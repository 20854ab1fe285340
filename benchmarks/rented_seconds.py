"""From an empty machine to the first training step: the document's way, ours, and what server and disk force.

Usage: python benchmarks/rented_seconds.py [--rounds N] [--large N] [--small N] [--ways WAY,…] [--work DIR]
       [--into FILE]

Starts an embedded AWS of its own and uploads an environment (this project's .venv, torch included, as tar.gz
and as squashfs) and two data sets: --large files of 64 MB and --small files of 64 KB; 0 leaves one out. A
round goes each way once for each data set, in turn, so that a busy machine is unfair to all alike. Times are
medians.

    document   aws s3 cp, tar xzf, preflight (torch), aws s3 sync, training (the library), each in turn
    ours       the instance's own functions (shell/lib/environment_image.sh, prefetch.sh), preflight, trainer
    copies     ours without what goes on beside the bytes: neither digest nor Python
    limit      the same bytes read by s5cmd to /dev/null

--ways leaves some of them out: `--ways copies,limit` takes a minute where the document's way takes most of an
hour.

--work keeps the packed environment for another time (packing takes minutes). Mounting needs root; without it
ours unpacks, and the table says so. Writes benchmarks/results/rented_seconds.md after every round, so that a
run that is broken off leaves what it has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from result_page import RESULTS, circumstances, table, write_page

from chronos_ec2.local_cloud import control
from chronos_ec2.pieces_digest import pieces_sha256_of
from chronos_ec2.workstation.environment_archive import pack, sha256_of
from chronos_ec2.workstation.instance_tools import make_instance_tools

REPOSITORY: Final = Path(__file__).resolve().parents[1]
RESULT: Final = RESULTS / "rented_seconds.md"
LARGE, SMALL = "files of 64 MB", "files of 64 KB"
FILE_BYTES: Final = {LARGE: 64 * 10**6, SMALL: 64 * 10**3}
WAYS: Final = ("document", "ours", "copies", "limit")
ENVIRONMENT, PREFLIGHT, DATA, TOTAL = "environment usable", "preflight", "data ready", "first step"
MOVED, PROCESSOR, USED = "bytes moved", "processor", "used "

# Prints `phase<TAB>seconds since the start` for each phase that is reached.
_COMMON: Final = """
set -Eeuo pipefail
start=$EPOCHREALTIME
reached() { printf '%s\\t%s\\n' "$1" "$(jq -n --argjson a "$start" --argjson b "$EPOCHREALTIME" '$b - $a')"; }
"""
_DOCUMENT: Final = (
    _COMMON
    + """
mkdir -p "$CHRONOS_ROOT/venv" "$CHRONOS_ROOT/data"
from="s3://$CHRONOS_BUCKET/cached-datasets"
aws s3 cp --only-show-errors "$from/python-env/env.tar.gz" "$CHRONOS_ROOT/env.tar.gz"
tar -xzf "$CHRONOS_ROOT/env.tar.gz" -C "$CHRONOS_ROOT/venv"
reached 'environment usable'
"$CHRONOS_ROOT/venv/bin/python3" -c 'import torch'
reached preflight
aws s3 sync --only-show-errors "$from/training-data/" "$CHRONOS_ROOT/data/"
reached 'bytes moved'
reached 'data ready'
"$CHRONOS_ROOT/venv/bin/python3" -c 'import torch, pandas, pyarrow, chronos'
reached 'first step'
"""
)
_OURS: Final = (
    _COMMON
    + """
source "$1/shell/lib/phases.sh"
export PYTHONPATH="$1/python"
mkdir -p "$home/venv" "$data/training-data"
begin_environment "$data/environment"
begin_prefetch "$data/training-data"
{ while kill -0 "${behind[prefetch]:-}" 2>/dev/null; do sleep 0.05; done; reached 'bytes moved'; } &
bring_environment "$home/venv" "$data/venv"
reached 'environment usable'
printf 'used %s\\t0\\n' "$environment_used"
begin_data_sync "${data_sync_call[@]}"
probe=$1/python/chronos_ec2/instance/environment_probe.py
run_waiting "$venv_python" "$probe" numpy pyarrow boto3 yaml torch >/dev/null
reached preflight
finish_data_sync "${data_sync_call[@]}"
reached 'data ready'
run_waiting "$venv_python" -c 'import chronos_ec2.instance.trainers.chronos.__main__'
reached 'first step'
"""
)
_COPIES: Final = (
    _COMMON
    + """
source "$1/shell/lib/phases.sh"
mkdir -p "$data/environment" "$data/training-data"
_fetch_by_either "s3://$CHRONOS_BUCKET/$(_environment_key)" "$data/environment/env"
reached 'environment usable'
begin_prefetch "$data/training-data"
finish prefetch
reached 'bytes moved'
"""
)
_LIMIT: Final = (
    _COMMON
    + """
s5() { s5cmd --log error --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }
s5 cat "s3://$CHRONOS_BUCKET/cached-datasets/python-env/env.squashfs" >/dev/null
reached 'environment usable'
s5 cat "s3://$CHRONOS_BUCKET/cached-datasets/training-data/*" >/dev/null
reached 'bytes moved'
"""
)
_SCRIPTS: Final = {"document": _DOCUMENT, "ours": _OURS, "copies": _COPIES, "limit": _LIMIT}


def pack_environment(folder: Path, work: Path) -> dict[str, Path]:
    """The environment in both formats, with its bytecode; what is there already is taken."""
    packed = {"squashfs": work / "env.squashfs", "tar.gz": work / "env.tar.gz"}
    missing = {name: path for name, path in packed.items() if not path.exists()}
    if not missing:
        return packed
    copy = work / "tree"
    shutil.copytree(folder, copy, symlinks=True)
    # As `invoke build-env` leaves it: no import on the machine has anything to compile. What was compiled
    # when the folder was used goes by the sources' times, which no archive keeps.
    words = ["-qq", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash", str(copy / "lib")]
    subprocess.run([sys.executable, "-m", "compileall", *words], check=False)
    for archive_format, path in missing.items():
        print(f"packing {path.name}", file=sys.stderr)
        pack(copy, path.with_suffix(".part"), archive_format)
        path.with_suffix(".part").replace(path)
    shutil.rmtree(copy)
    return packed


def make_data(folder: Path, count: int, size: int) -> None:
    """Files of noise, and the manifest that names them."""
    folder.mkdir()
    files = []
    for number in range(count):
        body = os.urandom(size)
        name = f"part-{number:05d}.parquet"
        (folder / name).write_bytes(body)
        files.append({"name": name, "bytes": size, "sha256": hashlib.sha256(body).hexdigest()})
    (folder / "MANIFEST.json").write_text(json.dumps({"files": files, "rows": 0, "series": 0}))


class Bench:
    """A bucket that holds the environment and one data set."""

    def __init__(self, url: str, bucket: str, packed: Mapping[str, Path], data: Path, tools: Path) -> None:
        self._variables = {
            **os.environ,
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "CHRONOS_BUCKET": bucket,
            "CHRONOS_ENVIRONMENT_ARCHIVE": packed["squashfs"].name,
            "CHRONOS_ENVIRONMENT_PIECES_SHA256": pieces_sha256_of(packed["squashfs"]),
            "CHRONOS_DATASET_SHA256": sha256_of(data / "MANIFEST.json"),
        }
        s5cmd = ["s5cmd", "--log", "error", "--endpoint-url", url]
        self._call([*s5cmd, "mb", f"s3://{bucket}"])
        for path in packed.values():
            self._call([*s5cmd, "cp", str(path), f"s3://{bucket}/cached-datasets/python-env/"])
        self._call([*s5cmd, "cp", f"{data}/", f"s3://{bucket}/cached-datasets/training-data/"])

    def _call(self, command: list[str]) -> str:
        done = subprocess.run(command, env=self._variables, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def go(self, way: str, disk: Path) -> dict[str, float]:
        """Seconds until each phase of one way, on an empty disk, and the processor seconds of it all."""
        before = _processor_seconds()
        with _fresh(disk):
            environment = {**self._variables, "CHRONOS_ROOT": str(disk)}
            # A mount namespace of its own, so that the mount goes with the way.
            isolated = ["unshare", "--mount"] if os.geteuid() == 0 else []
            done = subprocess.run(
                [*isolated, "bash", "-c", _SCRIPTS[way], "bash", str(REPOSITORY)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                start_new_session=True,
            )
        rows = (line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
        reached = {name: float(seconds) for name, seconds in rows}
        # Ours brings the data behind the environment: whichever comes last is the last of the bytes.
        reached[MOVED] = max(reached[MOVED], reached[ENVIRONMENT])
        return {**reached, PROCESSOR: _processor_seconds() - before}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _fresh(disk: Path) -> Iterator[None]:
    disk.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(disk)


Seconds = dict[str, dict[str, float]]


def measure(
    benches: Mapping[str, Bench], disk: Path, rounds: int, ways: Sequence[str]
) -> Iterator[dict[str, Seconds]]:
    """Median seconds of each phase of each way with each data set, after each round."""
    samples: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {way: {} for way in ways} for name in benches
    }
    for number in range(rounds):
        for name, bench in benches.items():
            for way in ways:
                reached = bench.go(way, disk)
                print(f"round {number + 1}, {name}: {way} {reached}", file=sys.stderr)
                for phase, seconds in reached.items():
                    samples[name][way].setdefault(phase, []).append(seconds)
        yield {
            name: {
                way: {phase: statistics.median(values) for phase, values in phases.items()}
                for way, phases in ways.items()
            }
            for name, ways in samples.items()
        }


def page(into: Path, measured: Mapping[str, Seconds], environment: str, rounds: int, command: str) -> str:
    """Write the result; returns its text."""
    ours = next(iter(measured.values())).get("ours", {})
    used = "".join(
        f" The environment was put in place by: {name.removeprefix(USED)}."
        for name in ours
        if name.startswith(USED)
    )
    tables = [f"Data: {name}.\n\n{_table(seconds)}" for name, seconds in measured.items()]
    return write_page(
        into,
        "From an empty machine to the first step",
        f"{circumstances(command)}, embedded AWS, {environment}, medians of {rounds}.{used}",
        "Seconds from the start until each is reached; the last line is processor seconds of the whole way, "
        "the server's not among them.",
        "\n\n".join(tables),
    )


def _table(seconds: Seconds) -> str:
    pairs = [("document", "ours"), ("ours", "limit"), ("copies", "limit")]
    pairs = [pair for pair in pairs if set(pair) <= seconds.keys()]
    rows = []
    for name in (ENVIRONMENT, PREFLIGHT, MOVED, DATA, TOTAL, PROCESSOR):
        of_ways = [f"{phases[name]:.2f}" if name in phases else "" for phases in seconds.values()]
        ratios = [_ratio(seconds[one].get(name), seconds[other].get(name)) for one, other in pairs]
        if any(of_ways):
            rows.append((name, *of_ways, *ratios))
    return table(("reached", *seconds, *(f"{one} / {other}" for one, other in pairs)), rows)


def _ratio(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one / other:.2f}"


def _ways(text: str) -> list[str]:
    ways = [way for way in WAYS if way in text.split(",")]
    if sorted(ways) != sorted(text.split(",")):
        raise argparse.ArgumentTypeError(f"got {text!r}, need some of {','.join(WAYS)}")
    return ways


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=20, help="files of 64 MB")
    parser.add_argument("--small", type=int, default=10_000, help="files of 64 KB")
    parser.add_argument("--ways", type=_ways, default=list(WAYS), help=f"default: {','.join(WAYS)}")
    parser.add_argument("--work", type=Path, help="where the packed environment is kept")
    parser.add_argument("--into", type=Path, default=RESULT)
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    counts = {kind: count for kind, count in {LARGE: given.large, SMALL: given.small}.items() if count}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        work = given.work or folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        packed = pack_environment(Path(sys.prefix), work)
        tools = folder / "bin"
        tools.mkdir()
        for tool, path in make_instance_tools(folder / "tools").items():
            if Path(tool).name == "s5cmd":
                (tools / "s5cmd").symlink_to(path)
        environment = (
            f"environment {packed['tar.gz'].stat().st_size / 1e6:.0f} MB as tar.gz and "
            f"{packed['squashfs'].stat().st_size / 1e6:.0f} MB as squashfs"
        )
        command = f"python benchmarks/rented_seconds.py --large {given.large} --small {given.small}"
        if given.ways != list(WAYS):
            command += f" --ways {','.join(given.ways)}"
        text, benches = "", {}
        url = control.start(folder / "cloud").endpoint_url
        try:
            for number, (kind, count) in enumerate(counts.items()):
                data = folder / f"data-{number}"
                make_data(data, count, FILE_BYTES[kind])
                benches[f"{count:,} {kind}"] = Bench(url, f"bench-{number}", packed, data, tools)
                shutil.rmtree(data)
            for number, measured in enumerate(
                measure(benches, folder / "disk", given.rounds, given.ways), start=1
            ):
                text = page(given.into, measured, environment, number, command)
        finally:
            control.stop(folder / "cloud")
    print(text)
    return 0


def _stop(number: int, _frame: object) -> NoReturn:
    # As an exception, so that the embedded AWS is ended on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
