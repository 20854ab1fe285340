"""A training stopped anywhere goes on as if nothing had been, in one process or several.

The trainer is the real one; that a kill for lack of memory is a SIGKILL is the kernel's way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tools.tally import Tally
from tools.trainings import SAVE_STEPS, STEPS, TrainerHost, Training, await_that, wrapped

SECONDS_TO_STOP = 10.0
EQUAL = 1e-5


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerHost]:
    """Starts trainings without their start-up."""
    found = TrainerHost(tmp_path_factory.mktemp("trainings"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def whole(host: TrainerHost, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that nothing stopped, in one process."""
    run = host.run(tmp_path_factory.mktemp("whole"))
    assert run.statuses == (0,), run.error
    assert sorted(run.losses()) == list(range(1, STEPS + 1))
    return run


def choice(of: list[int], count: int, full: bool, chance: random.Random) -> list[int]:
    """All, or some of them."""
    return of if full else sorted(chance.sample(of, count))


def at_step(step: int, act: Callable[[int], None]) -> Callable[[Training, list[int]], None]:
    """Do something to every process when a step has been told."""

    def meanwhile(run: Training, pids: list[int]) -> None:
        if await_that(lambda: max(run.losses(), default=0) >= step, pids):
            for pid in pids:
                act(pid)

    return meanwhile


def assert_same(run: Training, whole: Training) -> None:
    """It came to the end that the whole run came to, byte for byte."""
    assert run.statuses == (0,), run.error
    assert run.weights() == whole.weights()
    assert run.losses().items() <= whole.losses().items()


def test_killed_after_any_step_it_ends_with_the_same_bytes(
    host: TrainerHost, whole: Training, tmp_path: Path, tally: Tally, full: bool, chance: random.Random
) -> None:
    for step in choice(list(range(1, STEPS)), 2, full, chance):
        output = tmp_path / f"step {step}"
        kill = at_step(step, lambda pid: os.kill(pid, signal.SIGKILL))
        first = host.run(output, "--step-seconds", "0.02", meanwhile=kill)
        assert first.statuses == (-signal.SIGKILL,), f"step {step}: {first.error}"
        again = host.run(output)
        saved = max(first.losses()) // SAVE_STEPS * SAVE_STEPS
        assert again.resumed_from() in (saved, saved - SAVE_STEPS), "the last checkpoint, or the one before"
        assert_same(again, whole)
        tally.count("SIGKILL after a step, resumed", "same bytes")


def test_killed_while_it_writes_a_checkpoint_it_ends_with_the_same_bytes(
    host: TrainerHost, whole: Training, tmp_path: Path, tally: Tally, full: bool, chance: random.Random
) -> None:
    for number in range(20 if full else 2):
        output, after = tmp_path / str(number), chance.uniform(0, 0.02)
        nth = chance.randrange(SAVE_STEPS, STEPS, SAVE_STEPS)

        def kill(
            run: Training, pids: list[int], output: Path = output, after: float = after, nth: int = nth
        ) -> None:
            draft = output / f"checkpoints/.tmp-checkpoint-{nth}"
            done = output / f"checkpoints/checkpoint-{nth}"
            if await_that(lambda: draft.exists() or done.exists(), pids):
                time.sleep(after)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)

        first = host.run(output, "--step-seconds", "0.02", meanwhile=kill)
        assert first.statuses == (-signal.SIGKILL,), first.error
        half = (output / f"checkpoints/.tmp-checkpoint-{nth}").exists()
        assert_same(host.run(output), whole)
        told = "half a checkpoint, same bytes" if half else "a whole one, same bytes"
        tally.count("SIGKILL in a checkpoint, resumed", told)


def test_stopped_after_any_step_it_saves_just_there_and_ends_with_the_same_bytes(
    host: TrainerHost, whole: Training, tmp_path: Path, tally: Tally, full: bool, chance: random.Random
) -> None:
    def ask(pid: int) -> None:
        with suppress(ProcessLookupError):  # after its last step it may have ended already
            os.kill(pid, signal.SIGTERM)

    for step in [*choice(list(range(1, STEPS)), 2, full, chance), STEPS]:
        output = tmp_path / f"step {step}"
        first = host.run(output, "--step-seconds", "0.05", meanwhile=at_step(step, ask))
        # So near to the end the signal may come when the last step is under way.
        if step == STEPS or (step == STEPS - 1 and first.statuses == (0,)):
            assert_same(first, whole)
            tally.count("SIGTERM after a step, resumed", "too late to stop, same bytes")
            continue
        assert first.statuses == (75,), f"step {step}: {first.error}"
        again = host.run(output)
        assert again.resumed_from() == max(first.losses()) >= step, "no step is lost"
        assert_same(again, whole)
        tally.count("SIGTERM after a step, resumed", "exit 75, no step lost, same bytes")


def test_without_memory_at_any_step_it_fails_and_ends_with_the_same_bytes(
    host: TrainerHost, whole: Training, tmp_path: Path, tally: Tally, full: bool, chance: random.Random
) -> None:
    for step in choice(list(range(1, STEPS + 1)), 2, full, chance):
        output = tmp_path / f"step {step}"
        first = host.run(output, no_memory_before=step)
        assert first.statuses not in ((0,), (75,)), f"step {step}: {first.error}"
        # There may be none left to end in good order; status 2 comes with the words.
        assert first.statuses != (2,) or "lower batch_size or context_length" in first.error, first.error
        assert max(first.losses(), default=0) == step - 1, "the step that it has no memory for is none"
        again = host.run(output)
        assert again.resumed_from() == (step - 1) // SAVE_STEPS * SAVE_STEPS
        assert_same(again, whole)
        tally.count("no memory for a step", "failed, resumed, same bytes")


def test_any_number_of_processes_has_the_same_losses_and_goes_on_for_any_other(
    host: TrainerHost, tmp_path: Path, tally: Tally, full: bool, chance: random.Random
) -> None:
    alone = host.run(tmp_path / "alone", dropout=0.0)
    pairs = [(first, then) for first in (1, 2, 4) for then in (1, 2, 4)]
    for first, then in pairs if full else [(2, 1), (1, 4)]:
        output, step = tmp_path / f"{first} {then}", chance.randrange(2, STEPS)
        broken = host.run(output, "--fail-at-step", str(step), processes=first, dropout=0.0)
        assert 0 not in broken.statuses, broken.error
        again = host.run(output, processes=then, dropout=0.0)
        assert set(again.statuses) == {0}, again.error
        assert again.resumed_from() == (step - 1) // SAVE_STEPS * SAVE_STEPS
        assert sorted(broken.losses()) == list(range(1, step))
        assert sorted(again.losses()) == list(range(again.resumed_from() + 1, STEPS + 1))
        for run in (broken, again):
            expected = [alone.losses()[at] for at in run.losses()]
            np.testing.assert_allclose(list(run.losses().values()), expected, rtol=EQUAL)
        tally.count("failed on some processes, resumed on others", f"{first} then {then}: losses to {EQUAL}")


def test_stopped_under_torchrun_the_wrapper_exits_75_in_time(
    tmp_path: Path, tally: Tally, full: bool, chance: random.Random
) -> None:
    metrics = tmp_path / "output/metrics.jsonl"

    def steps() -> list[int]:
        """The steps that this run has told."""
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [json.loads(line)["step"] for line in lines if '"metric"' in line and line.endswith("}")]

    before = 0
    for _ in range(20 if full else 1):
        metrics.unlink(missing_ok=True)
        count = chance.randrange(1, 40)
        with wrapped(tmp_path, processes=2) as wrapper:
            told = await_that(lambda: len(steps()) >= count, [wrapper.pid], every=0.1)  # noqa: B023
            assert told, wrapper.communicate()
            began = time.monotonic()
            wrapper.send_signal(signal.SIGTERM)
            _, error = wrapper.communicate(timeout=300)
            seconds = time.monotonic() - began
        assert wrapper.returncode == 75, error
        record = json.loads((tmp_path / "output/training.json").read_text())
        assert record["status"] == "interrupted"
        assert record["checkpoint"]["step"] == record["last_step"] == max(steps()), "no step is lost"
        assert min(steps()) == before + 1, "it goes on where it was"
        before = max(steps())
        if full:
            assert seconds < SECONDS_TO_STOP
        tally.count("SIGTERM to torchrun with two processes of tiny", "exit 75, no step lost")
