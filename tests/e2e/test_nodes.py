"""A run on two machines of two processes each: one dies, and the run goes on to what one process learns.

It builds the environment with torch once, which takes minutes; the suite has the same training without the
machines (tests/unit/chronos_trainer/test_nodes.py):

    python -m pytest tests/e2e/test_nodes.py --two-machines -n 0
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.settings import REPOSITORY
from outside_looks import processes_naming, until

from .conftest import Cloud, losses_in

TRAINER = "chronos_ec2.instance.trainers.chronos"
STEPS, SAVED = 24, 4
"""Of half a second each: the plug is pulled before the last one."""


def flags() -> list[str]:
    settings = {
        "nodes": 2,
        "processes": 2,
        "instance_type": "m5.large",
        "trainer": "chronos",
        "checkpoint_every_steps": SAVED,
        "max_steps": STEPS,
        "training.batch_size": 256,
        "training.log_steps": 1,
        # Rounding differs with the number of processes; a high rate makes much of it within twenty steps.
        "training.learning_rate": 0.0001,
    }
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def pull_plug(cloud: Cloud, instance_id: str) -> None:
    """End a machine as a power failure does: none of its processes gets a last word."""
    while left := processes_naming(cloud.home / "instances" / instance_id):
        for line in left:
            with suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)


def losses_of_one_process(cloud: Cloud, run_id: str, folder: Path) -> dict[int, float]:
    """What the same training gives in one process, on this machine."""
    config = folder / "config.yaml"
    config.write_bytes(cloud.body(run_id, "config.yaml"))
    argv = [sys.executable, "-m", TRAINER, "--config", str(config), "--data", str(cloud.home / "data")]
    done = subprocess.run(
        [*argv, "--output", str(folder / "output")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return losses_in(done.stdout)


@pytest.fixture(scope="module")
def cluster(cloud: Cloud) -> None:
    """The stack has what several machines need; without it they are refused."""
    refused = cloud.invoke("launch", "--env", "local", *flags())
    assert refused.returncode == ExitCode.NOT_DEPLOYED and "placement group" in refused.stderr
    variables = {"CHRONOS_NODES": "2", "CHRONOS_INSTANCE_TYPE": "m5.large", "CHRONOS_TRAINER": "chronos"}
    deployed = cloud.invoke("deploy", "--env", "local", timeout=600, **variables)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr


@pytest.mark.long_form("--two-machines")
@pytest.mark.usefixtures("with_torch", "cluster", "quick_aws")
@pytest.mark.parametrize("dies", [1, 0], ids=["the second one", "the first one, which keeps the record"])
def test_a_machine_that_dies_fails_the_run_which_goes_on_to_the_losses_of_one_process(
    cloud: Cloud, tmp_path: Path, dies: int
) -> None:
    first = cloud.launch(*flags())
    run_id, ids = first["run_id"], first["instance_ids"]
    assert ids[0] == first["instance_id"] and sorted(cloud.live_instances()) == sorted(ids)
    assert cloud.record(run_id)["price"]["nodes"] == 2
    checkpoints = f"local/{run_id}/checkpoints/"
    until(lambda: "/manifest.json" in " ".join(cloud.keys(checkpoints)), "no checkpoint came")
    pull_plug(cloud, ids[dies])
    watched = cloud.follow(run_id)
    assert watched.returncode == ExitCode.RUN_FAILED, watched.stdout + watched.stderr
    record = cloud.record(run_id)
    assert (record["outcome"], record["failed_step"]) == ("failed", "training")
    assert f"node {dies} ({ids[dies]})" in record["error"] and f"--resume {run_id}" in record["error"]
    assert record["instance"]["ids"] == ids
    cloud.assert_nothing_left()

    second = cloud.launch(*flags(), "--resume", run_id)
    watched = cloud.follow(second["run_id"])
    assert watched.returncode == 0, watched.stdout + watched.stderr
    record = cloud.record(second["run_id"])
    assert (record["outcome"], record["resume_from"]) == ("succeeded", run_id)
    trained = json.loads(cloud.body(second["run_id"], "training.json"))["command"]
    assert {"torch.distributed.run", "--nnodes=2", "--node-rank=0", "--nproc-per-node=2"} < set(trained)
    kept = cloud.keys(f"local/{second['run_id']}/")
    assert {"logs/bootstrap.log", "logs/node-1/bootstrap.log", "models/model.pkl"} <= kept
    cloud.assert_nothing_left()

    found = cloud.losses(second["run_id"])
    assert found.keys() == set(range(record["resumed_from_step"] + 1, STEPS + 1))
    if dies != 0:  # the first one takes what its run has told with it
        found |= cloud.losses(run_id)
        assert found.keys() == set(range(1, STEPS + 1))
    alone = losses_of_one_process(cloud, run_id, tmp_path)
    assert found == pytest.approx({step: alone[step] for step in found}, abs=1e-5)
