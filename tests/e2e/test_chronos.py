"""Chronos on a spot machine that is taken back at any step: the run that goes on loses none of them.

It builds the environment with torch once, which takes minutes, so a flag asks for it; the suite has
the same with the test trainer (test_whole_runs.py):

    python -m pytest tests/e2e/test_chronos.py --chronos -n 0
"""

from __future__ import annotations

import random
import time

import pytest

from chronos_ec2.exit_codes import ExitCode
from outside_looks import until

from .conftest import Cloud

STEPS = 200
FLAGS = ("--set", "trainer=chronos", "--set", f"max_steps={STEPS}", "--set", "training.log_steps=1")


def step_of(cloud: Cloud) -> int:
    """The step that the state file names; 0 before there is one."""
    name, _, number = cloud.step().partition("_")
    return int(number) if name == "step" and number.isdigit() else 0


@pytest.mark.long_form("--chronos")
@pytest.mark.usefixtures("with_torch", "quick_aws")
def test_a_notice_at_any_step_loses_none(cloud: Cloud) -> None:
    whole = cloud.launch(*FLAGS)["run_id"]
    assert cloud.follow(whole).returncode == 0
    seed = time.time_ns()
    step = random.Random(seed).randrange(10, STEPS - 60)
    first = cloud.launch("--spot", *FLAGS)["run_id"]
    until(lambda: step_of(cloud) >= step, f"step {step} never came (seed {seed})")
    assert cloud.invoke("local.interrupt").returncode == 0
    watched = cloud.follow(first)
    assert watched.returncode == ExitCode.RUN_INTERRUPTED, watched.stdout + watched.stderr
    record = cloud.record(first)
    last = record["interrupted_at_step"]
    assert record["checkpoint_step"] == last >= step
    assert max(cloud.losses(first)) == last
    second = cloud.launch("--resume", first, *FLAGS)["run_id"]
    watched = cloud.follow(second)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    record = cloud.record(second)
    assert (record["resume_from"], record["resumed_from_step"]) == (first, last)
    assert min(cloud.losses(second)) == last + 1
    assert cloud.losses(first) | cloud.losses(second) == cloud.losses(whole)
    weights = "models/chronos2/model.safetensors"
    assert cloud.body(second, weights) == cloud.body(whole, weights)
    alone, together = (cloud.record(run_id)["metrics"] for run_id in (whole, second))
    assert (alone["WQL"], alone["MASE"]) == (together["WQL"], together["MASE"])
    assert alone["WQL"] < alone["baselines"]["seasonal_naive"]["WQL"]
    print(f"interrupted at step {last} of {STEPS} (seed {seed})")
    cloud.assert_nothing_left()
