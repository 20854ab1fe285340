"""The command that a run's `trainer` stands for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.bounded_run import run_bounded
from chronos_ec2.instance.place import Place
from chronos_ec2.instance.run_config import RunConfig
from chronos_ec2.state.stored_checkpoints import FOLDER

OWN_TRAINERS: Final = {
    "chronos": "chronos_ec2.instance.trainers.chronos",
    "test": "chronos_ec2.instance.trainers.linear_quantile",
}
"""Our trainers and their modules; they tell their beginning and their end by events."""

ALONE: Final = Place()
_DRIVER_PATIENCE: Final = 60.0


def count_gpus(config: RunConfig) -> int:
    """The GPUs of this machine, as the driver lists them; 0 where the run asked for none.

    Raises:
        ChronosError: the run asked for a GPU and the driver lists none.
    """
    if config.accelerator != "cuda" or config.trainer != "chronos":
        return 0
    try:
        listed = run_bounded(["nvidia-smi", "-L"], _DRIVER_PATIENCE)
    except OSError as error:
        raise ChronosError(f"nvidia-smi cannot be run: {error.strerror}") from error
    found = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    if listed.timed_out or listed.returncode or not found:
        raise ChronosError("nvidia-smi lists no GPU, and the run asked for one (accelerator: cuda)")
    return found


def trainer_argv(
    config: RunConfig,
    config_path: Path,
    data: Path,
    output: Path,
    *,
    gpus: int = 0,
    model: Path | None = None,
    place: Place = ALONE,
) -> tuple[str, ...]:
    """The command to run.

    Args:
        config: the run's settings.
        config_path, data, output: where they lie.
        gpus: how many the machine has; Chronos is trained by a process on each.
        model: where the start model lies that was fetched from S3.
        place: this machine's among those that train together.
    """
    if config.trainer == "command":
        return _own_command(config, config_path, data, output, place)
    module: tuple[str, ...] = ("-m", OWN_TRAINERS[config.trainer])
    count = config.processes or gpus or 1 if config.trainer == "chronos" else 1
    if count > 1 or not place.alone:
        # A worker that dies ends the rest; going on from the last checkpoint is the next run's matter.
        module = (
            "-m",
            "torch.distributed.run",
            *place.torchrun_flags(count),
            "--max-restarts=0",
            *module,
        )
    flags: tuple[str, ...] = ("--config", str(config_path), "--data", str(data), "--output", str(output))
    if config.trainer == "chronos":
        flags += ("--accelerator", config.accelerator)
        if model is not None:
            flags += ("--model", str(model))
    return (sys.executable, *module, *flags)


def _own_command(
    config: RunConfig, config_path: Path, data: Path, output: Path, place: Place
) -> tuple[str, ...]:
    words = {
        "{config}": str(config_path),
        "{data}": str(data),
        "{output}": str(output),
        "{checkpoints}": str(output / FOLDER),
        "{checkpoint_every_steps}": str(config.checkpoint_every_steps),
        "{nodes}": str(place.nodes),
        "{node_rank}": str(place.rank),
        "{master_addr}": place.address,
        "{master_port}": str(place.port),
    }
    argv = list(config.command)
    for placeholder, word in words.items():
        argv = [part.replace(placeholder, word) for part in argv]
    return tuple(argv)
