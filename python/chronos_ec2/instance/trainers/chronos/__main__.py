"""Trains Chronos-2 from Parquet, on one device or, started by torchrun, on many.

    python -m chronos_ec2.instance.trainers.chronos --config CONFIG.yaml --data DIR --output DIR
    torchrun --standalone --nproc-per-node 4 -m chronos_ec2.instance.trainers.chronos --config …

Reads the data, holds out the end of every series, learns, writes checkpoints, goes on from the newest one,
and scores its forecast beside the naive ones. Paths in its events are relative to the output folder.

Exit status: 0 done; 1 failed; 2 a wrong flag or setting; 3 `--fail-at-step`; 75 stopped by SIGTERM or SIGINT
after a checkpoint: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from chronos_ec2.data.series import load_series
from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.instance.events import EventWriter
from chronos_ec2.instance.trainers.chronos.processes import Processes
from chronos_ec2.instance.trainers.chronos.training import Trainer
from chronos_ec2.instance.trainers.command_line import run_trainer
from chronos_ec2.instance.trainers.rehearsal import Rehearsal, StopRequest
from chronos_ec2.training_settings import ChronosConfig

SCRATCH: Final = ".tmp-series"
"""In the output folder; what begins like this is not uploaded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainer's command line.

    Returns:
        The exit status that the module's head lists.
    """
    return run_trainer(_train, ChronosConfig, __doc__ or "", argv, add_arguments=_add_arguments)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="DIR", help="where the model lies that model_id names")
    words = "where to compute; default: on a GPU where torch sees one"
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), help=words)


def _accelerator(asked: str | None) -> str:
    """What to compute on.

    Raises:
        ChronosError: a GPU was asked for and torch can use none: the CPU would bill for days instead.
    """
    if torch.cuda.is_available():
        return asked or "cuda"
    if asked != "cuda":
        return "cpu"
    why: Exception | str = "torch.cuda.is_available() is False"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # an assertion is how a build without CUDA says it
        why = error
    raise ChronosError(f"a GPU was asked for (accelerator: cuda), and torch can use none: {why}")


def _train(config: ChronosConfig, arguments: argparse.Namespace) -> bool:
    processes = Processes(_accelerator(arguments.accelerator))
    stop = StopRequest()
    # Not before the processes have met: one that ignored the signal while it waits would hold up the rest.
    stop.install()
    try:
        trainer = Trainer(
            config=config,
            series=load_series(
                arguments.data,
                config.columns,
                config.min_length,
                held_out=config.prediction_length,
                scratch=arguments.output / SCRATCH / str(processes.rank),
            ),
            output=arguments.output,
            start_model=arguments.model,
            events=EventWriter(sys.stdout),
            stop=stop,
            rehearsal=Rehearsal.from_arguments(arguments),
            processes=processes,
        )
        return trainer.run()
    except RuntimeError as error:
        # A GPU's lack of memory is a class of its own; a CPU's is told from its words.
        told = any(words in str(error) for words in ("allocate memory", "bad_alloc"))
        if not told and not isinstance(error, torch.OutOfMemoryError):
            raise
        said = str(error).strip().partition("\n")[0]
        problem = said[max(0, said.find("DefaultCPUAllocator")) :].partition(". ")[0]
        raise SettingsError(
            f"{problem}: lower batch_size or context_length, or raise gradient_accumulation_steps"
        ) from error
    finally:
        processes.close()


if __name__ == "__main__":
    sys.exit(main())
