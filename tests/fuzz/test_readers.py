"""What a run leaves may be of any form: whoever shows it on the laptop shows what can be read, or refuses."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import example, given
from hypothesis import strategies as st
from nonsense import FUZZ, JSON, dumped, flawed, flawed_bytes
from test_records import RECORD, RUN, STATE

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.compare import compare, print_comparison
from chronos_ec2.workstation.cost import add_up, print_costs
from chronos_ec2.workstation.export import export_run
from chronos_ec2.workstation.fetch import fetch
from chronos_ec2.workstation.logs import show_logs
from chronos_ec2.workstation.report import report_of_bucket
from chronos_ec2.workstation.runs import list_runs
from chronos_ec2.workstation.runs_table import print_runs
from chronos_ec2.workstation.summary import print_summary
from chronos_ec2.workstation.watch import watch
from faults.tools.tally import Tally

NOW = datetime(2026, 11, 24, 0, 20, tzinfo=UTC)
OTHER = "2026-11-23-001628"
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
CONFIG = {"trainer": "test", "nodes": 2, "training_config": {"max_steps": 300}}
WHOLE = {
    **RECORD,
    "config": CONFIG,
    "instance": {**RECORD["instance"], "ids": ["i-0abc", "i-0abd"]},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "dataset": {"files": [{"name": "a", "bytes": 7}], "series": 1, "rows": 7, "manifest_sha256": "a" * 64},
    "environment_archive": {"key": "k", "sha256": "a" * 64, "bytes": 7},
    "timeline": {"launch_accepted": "2026-11-24T00:16:30.000Z", "first_step": "2026-11-24T00:16:50.000Z"},
    "interrupted_at_step": 10,
    "resumed_from_step": 5,
}
GOING = {**WHOLE, "outcome": None, "ended_at": None, "cost_usd": None}
TRAINING = {
    "exit_code": 0,
    "status": "completed",
    "metrics": {"WQL": 0.1},
    "baselines": {"seasonal_naive": {"WQL": 0.2}},
    "versions": {"python": "3.12"},
    "history": [{"step": 1, "loss": 0.5}],
    "data": {"series": 1, "files": [{"name": "a", "bytes": 7}]},
    "warnings": ["one"],
    "model": {"parameters": 7},
}
PREFLIGHT = {"checks": [{"name": "gpu", "ok": False, "detail": "none", "remedy": "get one"}]}
METRIC = {"event": "metric", "step": 10, "loss": 0.5, "t": "2026-11-24T00:17:00Z"}
GPU = {
    "index": 0,
    "name": "T4",
    "util_percent": 50,
    "memory_bytes": 1,
    "memory_total_bytes": 2,
    "temperature_celsius": 50,
    "power_watts": 70,
}
SAMPLE = {
    "source": "sampler",
    "t": "2026-11-24T00:17:00Z",
    "phase": "training",
    "cpu_percent": 10,
    "memory_bytes": 1,
    "memory_total_bytes": 2,
    "disk_bytes": 1,
    "disk_total_bytes": 2,
    "network_in_bytes_per_second": 1,
    "network_out_bytes_per_second": 1,
    "gpus": [GPU],
}
MACHINE = {"source": "sampler", "event": "machine", "cpus": 4, "gpus": [{"index": 0, "name": "T4"}]}
IDLE = {"source": "sampler", "event": "idle_gpu", "minutes": 12}
KERNEL = {"source": "kernel", "message": "NVRM: Xid 79"}
EVENTS = (METRIC, SAMPLE, MACHINE, IDLE, KERNEL)
LINES = st.one_of(*map(flawed, EVENTS)).map(dumped) | st.sampled_from(EVENTS).map(dumped)
METRICS = st.lists(LINES, max_size=5).map(b"\n".join)


class Cloud:
    """One environment's objects and a machine that EC2 no longer knows, in the words of boto3's clients."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.objects = files

    def get_paginator(self, operation: str) -> Any:
        if operation == "describe_instances":
            return type("None", (), {"paginate": lambda _self, **_: [{"Reservations": []}]})()
        return self

    def paginate(self, *, Prefix: str, Delimiter: str = "", **_: Any) -> list[dict[str, Any]]:
        found = sorted(key for key in self.objects if key.startswith(Prefix))
        if Delimiter:
            names = sorted(
                {key[len(Prefix) :].partition("/")[0] for key in found if "/" in key[len(Prefix) :]}
            )
            return [{"CommonPrefixes": [{"Prefix": f"{Prefix}{name}/"} for name in names]}]
        return [{"Contents": [{"Key": key, **self._facts(key)} for key in found]}]

    def _facts(self, key: str) -> dict[str, Any]:
        return {"Size": len(self.objects[key]), "ETag": '"e"', "LastModified": NOW}

    def get_object(self, *, Key: str, Range: str = "bytes=0-", **_: Any) -> dict[str, Any]:
        body = self._body(Key, "GetObject")
        first, _, last = Range.removeprefix("bytes=").partition("-")
        part = body[int(first) :] if first else body[-int(last) :]
        return {"Body": io.BytesIO(part), "ETag": '"e"', "ContentRange": f"bytes 0-0/{len(body)}"}

    def head_object(self, *, Key: str, **_: Any) -> dict[str, Any]:
        return {"ContentLength": len(self._body(Key, "HeadObject"))}

    def put_object(self, *, Key: str, Body: bytes, **_: Any) -> None:
        self.objects[Key] = Body

    def download_fileobj(self, _bucket: str, key: str, file: Any, **_: Any) -> None:
        file.write(self.objects[key])

    def get_console_output(self, *, InstanceId: str) -> dict[str, str]:
        return {"Output": f"the console of a machine of {len(InstanceId)} letters\n"}

    def _body(self, key: str, operation: str) -> bytes:
        if key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "planned"}}, operation)
        return self.objects[key]


class Mlflow:
    """A tracking server that takes what is text."""

    uri = "http://127.0.0.1"

    def call(self, _method: str, _path: str, **fields: Any) -> dict[str, Any]:
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
        return {"experiment": {"experiment_id": "1"}, "run": {"info": {"run_id": "1"}}}


class Paper(io.TextIOWrapper):
    """A stream that only takes what UTF-8 can hold; as `tty` it says that it is a terminal."""

    def __init__(self, tty: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    @property
    def text(self) -> str:
        self.seek(0)
        return self.read()


Reader = Callable[[Cloud, Paper, Path], object]


def runs(cloud: Cloud, out: Paper, _here: Path) -> None:
    print_runs(list_runs(cloud, "b", "dev", ec2=cloud, now=lambda: NOW), out)


def costs(cloud: Cloud, out: Paper, _here: Path) -> None:
    print_costs(add_up(list_runs(cloud, "b", "dev", ec2=cloud, now=lambda: NOW)), out)


def watched(cloud: Cloud, out: Paper, _here: Path) -> None:
    watch(cloud, cloud, "b", "dev", out=out, run_id=RUN, follow=False, now=lambda: NOW, sleep=pytest.fail)


def logged(cloud: Cloud, out: Paper, _here: Path) -> None:
    for node in (0, 1):
        show_logs(cloud, cloud, "b", "dev", out=out, err=out, run_id=RUN, node=node, now=lambda: NOW)


def compared(cloud: Cloud, out: Paper, _here: Path) -> None:
    print_comparison(compare(cloud, "b", "dev", [RUN, OTHER]), [RUN, OTHER], out, everything=True)


def exported(cloud: Cloud, out: Paper, _here: Path) -> None:
    export_run(cloud, "b", "dev", server=Mlflow(), experiment="e", out=out, run_id=RUN)


def fetched(cloud: Cloud, out: Paper, here: Path) -> None:
    fetch(cloud, "b", "dev", into=here, out=out, run_id=RUN)
    print_summary(here / RUN, out)


def reported(cloud: Cloud, out: Paper, here: Path) -> None:
    report_of_bucket(
        cloud, cloud, "b", "dev", into=here / "report.html", out=out, run_id=RUN, now=lambda: NOW
    )


READERS: list[Reader] = [runs, costs, watched, logged, compared, exported, fetched, reported]
FILES = st.fixed_dictionaries(
    {"run.json": (flawed(WHOLE) | flawed(GOING) | JSON).map(dumped)},
    optional={
        "training.json": (flawed(TRAINING) | JSON).map(dumped) | flawed_bytes(dumped(TRAINING)),
        "preflight.json": (flawed(PREFLIGHT) | JSON).map(dumped),
        "metrics.jsonl": METRICS,
        "metrics/00001.jsonl": METRICS,
        "logs/bootstrap.log": st.just(b"INFO  fetched so far: environment 7 bytes data 7 bytes\n"),
    },
)


@pytest.mark.parametrize(
    ("reader", "tty"),
    [*((reader, False) for reader in READERS), (runs, True), (watched, True)],
    ids=lambda value: getattr(value, "__name__", "terminal" if value else "pipe"),
)
@FUZZ
@example(files={"run.json": dumped(WHOLE), "metrics.jsonl": dumped({**METRIC, "\ud800": 1.0})}, state=None)
@example(
    files={"run.json": dumped({**WHOLE, "outcome": "fa\ud800\x1b[2J", "failed_step": "\x1b[2J"})}, state=None
)
@example(files={"run.json": dumped({**WHOLE, "instance": "x"})}, state=None)
@example(files={"run.json": dumped({**WHOLE, "outcome": ["x"], "metrics": {"\x1b[2J": 1}})}, state=None)
@example(files={"run.json": dumped({**WHOLE, "config": {"\x1b[2J": 1}})}, state=None)
@example(
    files={
        "run.json": dumped(
            {**GOING, "phases": [{"name": "\x1b[2J", "seconds": 10**400, "outcome": "\x1b[2J"}]}
        ),
        "metrics/00001.jsonl": b"\n".join(map(dumped, ({**METRIC, "step": 1e200}, MACHINE, SAMPLE))),
    },
    state=dumped({**STATE, "current_step": "step_" + "9" * 5000 + "\x1b[2J\ud800"}),
)
@example(
    files={
        "run.json": dumped(GOING),
        "metrics/00001.jsonl": b"\n".join(
            map(
                dumped,
                ({**MACHINE, "gpus": [{"index": []}]}, {**SAMPLE, "cpu_percent": "x", "disk_bytes": "x"}),
            )
        ),
    },
    state=dumped(STATE),
)
@given(files=FILES, state=st.none() | flawed(STATE).map(dumped))
def test_any_run_is_shown_or_refused(
    tally: Tally, reader: Reader, tty: bool, files: dict[str, bytes], state: bytes | None
) -> None:
    cloud = Cloud({f"dev/{RUN}/{name}": body for name, body in files.items()})
    cloud.objects[f"dev/{OTHER}/run.json"] = dumped({**WHOLE, "run_id": OTHER})
    if state is not None:
        cloud.objects["dev/system-state.json"] = state
    out = Paper(tty)
    with tempfile.TemporaryDirectory() as here:
        try:
            reader(cloud, out, Path(here))
        except ChronosError as error:
            str(error).encode()
            tally.count(reader.__name__, "refused")
        else:
            tally.count(reader.__name__, "shown")
    if not tty:
        assert not STEERS.search(out.text)
