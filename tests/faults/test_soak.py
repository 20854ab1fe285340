"""Many runs in a row, struck at random: nothing leaks, every run is accounted for, the bill adds up."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tools.cloud import server_pid
from tools.lab import ENVIRONMENT, Lab
from tools.matrix import play
from tools.matrix_faults import FAULTS
from tools.tally import Tally

from chronos_ec2.workstation.runs import list_runs

RUNS: Final = 200
SHORT: Final = (("disk full", "training"), ("killed: trainer", "training"))
"""The short form's runs; what is struck at random there would fail at random."""
MOST_MISJUDGED: Final = 3
"""Runs that end as they should not, after which the rest is not played: one may have spoilt the next."""
WARM_UP: Final = 1
"""Runs after which everything that is loaded once is loaded."""
MOST_MEMORY_A_RUN: Final = 1_000_000
"""Bytes beside what the run has stored: moto keeps ended instances, EC2 forgets them after an hour."""
ALLOCATOR_SLACK: Final = 32_000_000
"""Bytes: what the server's allocator takes and gives back between two looks, whatever lies between."""
MOST_DISK: Final = 60_000_000
"""Bytes: the consoles of the last fifty machines."""
BILLING_SECONDS: Final = 20
"""Between a record's last word and the machine's end, at most; the machine is loaded here."""
TOO_SLOW: Final = ("5 s latency", "S3 down for 60 s", "S3 down for 600 s")


@dataclass(frozen=True)
class Use:
    """What the embedded AWS holds of this machine."""

    files: int
    threads: int
    memory: int
    stored: int
    disk: int


def use(lab: Lab) -> Use:
    """Look at the server, its bucket and its folder."""
    process = Path("/proc") / str(server_pid(lab.home))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    pages = lab.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=lab.bucket)
    return Use(
        files=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        memory=int(status["VmRSS"].split()[0]) * 1024,
        stored=sum(item["Size"] for page in pages for item in page.get("Contents", [])),
        disk=sum(path.lstat().st_size for path in lab.folder.rglob("*") if not path.is_symlink()),
    )


@pytest.fixture
def lived(lab: Lab) -> Iterator[Path]:
    """What the instance host writes: how long each machine had power."""
    ledger = lab.home / "ledger.jsonl"
    ledger.write_text("")
    yield ledger
    ledger.unlink()


def test_many_runs_leave_nothing_but_their_results(
    lab: Lab, lived: Path, tally: Tally, chance: random.Random, full: bool
) -> None:
    cells = [(fault, phase) for fault in FAULTS if fault.name not in TOO_SLOW for phase in fault.ends]
    short = [cell for cell in cells if (cell[0].name, cell[1]) in SHORT]
    outcomes: list[str] = []
    misjudged: list[str] = []
    warm = first = use(lab)
    for number, (fault, phase) in enumerate(chance.choices(cells, k=RUNS) if full else short, start=1):
        where = f"run {number}, {fault.name} at {phase}"
        try:
            end = play(lab, fault, phase, chance)
        except AssertionError as error:
            misjudged.append(f"{where}: {error}")
            print(f"MISJUDGED {misjudged[-1]}", flush=True)
            assert len(misjudged) < MOST_MISJUDGED, "\n".join(misjudged)
            # The rest says whether it was chance, and is accounted for by itself.
            lab.clear()
            lived.write_text("")
            outcomes.clear()
            continue
        print(f"{where}: {end}", flush=True)
        outcomes.append(end.split(",")[0])
        tally.count("runs in a row, struck at random", outcomes[-1])
        if number == WARM_UP:
            warm = use(lab)
    last = use(lab)
    print(f"before {first}\nwarm   {warm}\nlast   {last}")
    assert misjudged == []
    after = len(outcomes) - WARM_UP
    assert last.files <= warm.files + 5 and last.threads <= warm.threads + 5
    grown = (last.memory - warm.memory) - 3 * (last.stored - warm.stored)
    assert grown <= ALLOCATOR_SLACK + MOST_MEMORY_A_RUN * after, f"{grown / after:.0f} bytes a run"
    assert last.disk - warm.disk <= MOST_DISK
    every_run_is_accounted_for(lab, outcomes, lived)


def every_run_is_accounted_for(lab: Lab, outcomes: list[str], lived: Path) -> None:
    """`invoke runs` has them all, and their seconds are the host's."""
    records = list_runs(lab.aws.s3, lab.bucket, ENVIRONMENT, limit=len(outcomes) + 1)
    assert sorted(str(record.outcome) for record in records) == sorted(outcomes)
    seconds = {line["id"]: line["seconds"] for line in map(json.loads, lived.read_text().splitlines())}
    for record in records:
        document = lab.record(record.run_id) or {}
        host = max(60.0, seconds.pop(document["instance"]["id"]))
        billed = document["cost_usd"]["seconds"]
        latest = host + BILLING_SECONDS if not document["cost_usd"].get("at_most") else float("inf")
        assert host - BILLING_SECONDS <= billed <= latest, f"{record.run_id}: billed {billed} s of {host}"
    assert seconds == {}, "machines that no run has"
