"""A machine's place among those that train together, and what the wrapper makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from chronos_ec2.instance.place import Place, card_towards, free_port
from chronos_ec2.instance.run_config import RunConfig
from chronos_ec2.instance.trainer_command import trainer_argv
from chronos_ec2.instance.wrapper import main

CONFIG = {"run_id": "2025-01-15-143022", "environment": "dev", "accelerator": "cpu"}


def test_loopback_is_reached_by_its_card_and_nowhere_by_none() -> None:
    assert card_towards("127.77.0.2", 29500) == "lo"
    assert card_towards("no address", 1) is None
    assert Place().variables() == {}
    assert Place(2, 1, "127.77.0.1", free_port()).variables() == dict.fromkeys(
        ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), "lo"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_is_told_the_place_also_for_one_process_a_node(rank: int) -> None:
    config = RunConfig(**CONFIG, trainer="chronos")
    paths = (Path("/c"), Path("/d"), Path("/o"))
    argv = trainer_argv(config, *paths, gpus=1, place=Place(3, rank, "10.20.0.5", 4000))
    assert argv[1:8] == (
        *("-m", "torch.distributed.run", "--nnodes=3", f"--node-rank={rank}"),
        *("--master-addr=10.20.0.5", "--master-port=4000", "--nproc-per-node=1"),
    )
    alone = trainer_argv(config, *paths, gpus=4)
    assert alone[1:5] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4")
    by_itself = trainer_argv(config, *paths)
    assert "torch.distributed.run" not in by_itself
    assert by_itself[-2:] == ("--accelerator", "cpu")  # never what torch happens to see


def test_processes_are_those_of_chronos_alone() -> None:
    paths = (Path("/c"), Path("/d"), Path("/o"))
    argv = trainer_argv(RunConfig(**CONFIG, trainer="chronos", processes=2), *paths)
    assert "--nproc-per-node=2" in argv
    assert "torch.distributed.run" not in trainer_argv(
        RunConfig(**CONFIG, trainer="test", processes=2), *paths
    )


def test_a_command_gets_its_place_in_words() -> None:
    command = ("run", "{nodes}", "{node_rank}", "{master_addr}:{master_port}")
    config = RunConfig(**CONFIG, trainer="command", command=command)
    paths = (Path("/c"), Path("/d"), Path("/o"))
    assert trainer_argv(config, *paths, place=Place(2, 1, "10.20.0.5", 4000)) == (
        "run",
        "2",
        "1",
        "10.20.0.5:4000",
    )
    assert trainer_argv(config, *paths) == ("run", "1", "0", "127.0.0.1:29500")


def wrapper(tmp_path: Path, rank: int) -> int:
    """Run a trainer that is ours, says nothing and exits with 0, as node `rank` of 2."""
    (tmp_path / "output").mkdir()
    (tmp_path / "data").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**CONFIG, "trainer": "chronos", "processes": 1}))
    flags = ["--config", str(config), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "output")]
    return main([*flags, "--nodes", "2", "--node-rank", str(rank), "--master", "127.0.0.1:4000"])


@pytest.mark.parametrize(("rank", "status"), [(0, 1), (1, 0)])
def test_only_the_first_nodes_trainer_has_to_speak(
    rank: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What stands for the trainer's Python: silent, and content.
    monkeypatch.setattr(sys, "executable", "true")
    assert wrapper(tmp_path, rank) == status


@pytest.mark.parametrize(
    "flags",
    [
        ["--nodes", "2", "--node-rank", "2"],
        ["--node-rank", "-1"],
        ["--nodes", "2", "--master", "10.20.0.5"],
        ["--nodes", "2", "--master", ":4000"],
        ["--nodes", "2", "--master", "h:0"],
    ],
)
def test_a_place_that_is_none_is_a_usage_problem(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--config", "c", "--data", "d", "--output", "o", *flags])
    assert caught.value.code == 2
    assert "--nodes" in capsys.readouterr().err
