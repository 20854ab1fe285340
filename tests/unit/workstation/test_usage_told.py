"""Where a run's billed seconds went, as `invoke runs` and `invoke watch` say it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.program import Program
from rich.console import Console

from chronos_ec2.report.usage import SPENT_ON, Usage
from chronos_ec2.state.clock import to_milliseconds
from chronos_ec2.workstation.run_record import RunRecord
from chronos_ec2.workstation.runs_table import print_runs
from chronos_ec2.workstation.sight import Sight, summary
from chronos_ec2.workstation.watch_screen import Screen
from verbs import looking

RUN = "2025-01-15-143022"
OLDER = "2025-01-14-080000"
NOW = datetime(2025, 1, 15, 14, 31, 30, tzinfo=UTC)
USAGE = Usage(
    billed_seconds=68,
    trained_seconds=9.2,
    trained_percent=13.2,
    waste_seconds={"environment": 17.4, "boot": 12.0},
)
SENTENCE = "billed 1 min 08 s, trained 9 s (13 %); largest waste: environment, 17 s"


def record(**changes: Any) -> RunRecord:
    whole = RunRecord(run_id=RUN, environment="dev", outcome="succeeded", started_at=NOW, usage=USAGE)
    return replace(whole, **changes)


def sight(found: RunRecord, word: str = "ended", **changes: Any) -> Sight:
    return Sight(environment="dev", run_id=RUN, word=word, seen_at=NOW, record=found, **changes)


def test_the_table_has_a_line_for_each_run_that_told_and_none_for_another() -> None:
    out = io.StringIO()
    print_runs([record(), record(run_id=OLDER, usage=None)], out)
    assert [line for line in out.getvalue().splitlines() if "billed" in line] == [f"{RUN}: {SENTENCE}"]


def test_a_run_that_wasted_nothing_names_no_waste() -> None:
    out = io.StringIO()
    print_runs([record(usage=replace(USAGE, waste_seconds={}))], out)
    assert f"{RUN}: {SENTENCE.partition(';')[0]}" in out.getvalue().splitlines()


def test_the_last_words_of_a_watch_have_it() -> None:
    assert f"  time: {SENTENCE}" in summary(sight(record()))
    assert not [line for line in summary(sight(record(usage=None))) if "time:" in line]


@pytest.mark.parametrize("usage", [USAGE, None])
def test_the_screen_of_a_living_run_has_it(usage: Usage | None) -> None:
    living = sight(record(outcome="running", usage=usage), "training", status="training")
    out = io.StringIO()
    console = Console(file=out, width=100, height=30, force_terminal=True, color_system=None)
    console.print(Screen("utf-8").draw(living, NOW, 100, 30, None))
    assert (SENTENCE in out.getvalue()) is (usage is not None)


@pytest.fixture
def looked(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs a command on the world and hands back what it printed."""
    account = SimpleNamespace(
        s3=world.s3, ec2=world.ec2, bucket=world.bucket, topic_arn="", clock=world.clock.now
    )
    monkeypatch.setattr(looking, "Aws", lambda settings: account)
    monkeypatch.setattr(looking, "STATE_FOLDER", tmp_path)
    program = Program(namespace=Collection(looking.runs, looking.watch))

    def look(*words: str) -> str:
        program.run(["invoke", *words, "--env", "dev"], exit=False)
        return capsys.readouterr().out

    return look


def test_both_commands_say_it_of_a_run_in_the_bucket(world: Any, looked: Any) -> None:
    began = world.clock.now()
    seconds = dict(zip(SPENT_ON, (0, 8, 20, 45, 50, 52, 60, 160, 165, 170), strict=True))
    timeline = {name: to_milliseconds(began + timedelta(seconds=at)) for name, at in seconds.items()}
    world.clock.pass_time(170)
    world.end_run("succeeded", RUN, timeline=timeline)
    sentence = "billed 2 min 50 s, trained 1 min 40 s (59 %); largest waste: environment, 25 s"
    assert f"{RUN}: {sentence}\n" in looked("runs")
    assert f"  time: {sentence}\n" in looked("watch", "--once")
    (of_runs,), of_watch = (
        json.loads(looked("runs", "--json")),
        json.loads(looked("watch", "--once", "--json")),
    )
    assert of_runs["usage"] == of_watch["usage"]
    assert (of_watch["usage"]["billed_seconds"], of_watch["usage"]["trained_seconds"]) == (170, 100.0)
    assert next(iter(of_watch["usage"]["waste_seconds"].items())) == ("environment", 25.0)
