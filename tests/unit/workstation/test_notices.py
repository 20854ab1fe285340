"""What the laptop tells the topic of, and that telling never matters to the command that does it."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation import notices
from chronos_ec2.workstation.notices import Teller
from chronos_ec2.workstation.reap import Reaper
from chronos_ec2.workstation.settings import load_settings
from chronos_ec2.workstation.sight import Sight

RUN, TOPIC, BUCKET = "2025-01-15-143022", "arn:aws:sns:us-east-1:123456789012:ChronosTraining", "a-bucket"
SIGHT = Sight("dev", RUN, "training", utc_now(), status="training", current_step="step_7")


class Calls:
    """Stands for `subprocess.run`; keeps the words after the script, and how it was called."""

    def __init__(self, error: Exception | None = None) -> None:
        self.words: list[list[str]] = []
        self.options: dict[str, Any] = {}
        self._error = error

    def __call__(self, argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.words.append(argv[4:])
        self.options = options
        if self._error is not None:
            raise self._error
        return subprocess.CompletedProcess(argv, 0, "", "a line of talk\n")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    variables = {"PATH": os.environ["PATH"], "AWS_REGION": "us-east-1"}
    monkeypatch.setattr(notices, "aws_environment", lambda settings: variables)
    return variables  # type: ignore[return-value]


def make(calls: Any, topic: str = TOPIC) -> tuple[Teller, io.StringIO]:
    out = io.StringIO()
    return Teller(load_settings("dev", variables={}), topic, BUCKET, out=out, run=calls), out


def test_an_event_is_handed_to_the_library_once_and_bounded() -> None:
    calls = Calls()
    teller, out = make(calls)
    for _ in range(2):
        teller.tell("end", RUN, {"outcome": "lost"})
    assert calls.words == [[TOPIC, BUCKET, "dev", RUN, "end", '{"outcome": "lost"}']]
    assert calls.options["timeout"] == notices.LIMIT_SECONDS
    assert out.getvalue() == "a line of talk\n"


def test_without_a_topic_nothing_is_run() -> None:
    calls = Calls()
    make(calls, topic="")[0].tell("end", RUN)
    assert calls.words == []


@pytest.mark.parametrize("error", [OSError("no bash"), subprocess.TimeoutExpired("bash", 40)])
def test_what_goes_wrong_is_said_and_nothing_more(error: Exception) -> None:
    teller, out = make(Calls(error))
    teller.tell("end", RUN)
    assert f"the notice of the end of run {RUN} was not sent" in out.getvalue()


@pytest.mark.parametrize(("seconds", "told"), [(None, False), (899.0, False), (900.0, True)])
def test_silence_is_told_once_it_has_lasted_stale_minutes(seconds: float | None, told: bool) -> None:
    calls = Calls()
    teller, _ = make(calls)
    for _ in range(3):
        teller.saw(replace(SIGHT, word="stalled", heartbeat_age_seconds=seconds))
    lacking = '{"silent_for": "15 min 00 s", "current_step": "step_7"}'
    assert calls.words == ([[TOPIC, BUCKET, "dev", RUN, "stall", lacking]] if told else [])


def test_a_machine_that_vanishes_while_it_is_watched_is_told() -> None:
    calls = Calls()
    teller, _ = make(calls)
    for sight in (SIGHT, replace(SIGHT, word="gone", outcome="lost")):
        teller.saw(sight)
    assert [words[4] for words in calls.words] == ["end"]


@pytest.mark.parametrize("outcome", ["lost", "succeeded", "failed", "killed"])
def test_an_end_that_is_no_news_or_that_the_machine_tells_itself_is_not_told(outcome: str) -> None:
    calls = Calls()
    if outcome != "lost":  # `lost` is news to who has seen the run alive
        make(calls)[0].saw(SIGHT)
    make(calls)[0].saw(replace(SIGHT, word=outcome, outcome=outcome))
    make(calls)[0].saw(replace(SIGHT, word="idle", run_id=None))
    assert calls.words == []


@pytest.mark.parametrize("alive", [True, False])
def test_who_reaps_a_run_tells_its_end(alive: bool, world: Any) -> None:
    instance, out = world.start_instance(), io.StringIO()
    world.put_run()
    world.put_state("training", "step_7", instance_id=instance)
    world.clock.pass_time(3600)  # silent for an hour
    if not alive:
        world.terminate(instance)
    told: list[str] = []
    reaper = Reaper(
        *(world.s3, world.ec2, world.bucket, "dev"),
        stale_after=timedelta(minutes=15),
        claim_patience=timedelta(minutes=5),
        out=out,
        tell=told.append,
        now=world.clock.now,
        sleep=world.clock.sleep,
    )
    survey, actions = reaper.plan()
    assert told == []
    assert reaper.carry_out(survey, actions)
    assert set(told) == {RUN}
    assert world.run_document()["outcome"] == "lost"


def test_the_library_sends_it(tmp_path: Path, environment: dict[str, str]) -> None:
    aws = tmp_path / "aws"
    aws.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >>"${0%/*}/calls"; printf "\\n" >>"${0%/*}/calls"\n')
    aws.chmod(0o755)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    teller, out = make(subprocess.run)
    teller.tell("end", RUN, {"outcome": "lost", "error": 'two words; "quoted" $(id)'})
    calls = [line.split("\0") for line in (tmp_path / "calls").read_text().split("\0\n")]
    publish = next(words for words in calls if words[:2] == ["sns", "publish"])
    assert publish[publish.index("--subject") + 1] == f"Chronos dev {RUN}: lost"
    assert 'error       two words; "quoted" $(id)' in publish[publish.index("--message") + 1]
    assert "sent" in out.getvalue()


def test_the_library_is_where_it_is_looked_for() -> None:
    assert notices.LIBRARY.is_file()
