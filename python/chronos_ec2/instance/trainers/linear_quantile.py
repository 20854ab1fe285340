"""The test trainer: learns a linear quantile model from Parquet on one CPU core, in seconds.

    python -m chronos_ec2.instance.trainers.linear_quantile --config CONFIG.yaml --data DIR --output DIR

It is small but whole: it reads the data, holds out the end of every series, learns, writes checkpoints, goes
on from the newest one, and scores its forecast beside the seasonal-naive one. Paths in its events are
relative to the output folder.

Exit status: 0 done; 1 failed; 2 a wrong flag or setting; 3 `--fail-at-step`; 75 stopped by SIGTERM or SIGINT
after a checkpoint: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.instance.events import EventWriter
from chronos_ec2.instance.series import load_series
from chronos_ec2.instance.trainers.checkpoints import remove_checkpoints
from chronos_ec2.instance.trainers.rehearsal import FailedOnRequest, Rehearsal, StopRequest
from chronos_ec2.instance.trainers.settings import load_config
from chronos_ec2.instance.trainers.training import CHECKPOINTS, Trainer, say

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_FAILED_ON_REQUEST: Final = 3
EXIT_INTERRUPTED: Final = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainer's command line.

    Returns:
        The exit status that the module's head lists.
    """
    stop = StopRequest()
    stop.install()
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments, stop)
    except FailedOnRequest as error:
        return _fail(error, EXIT_FAILED_ON_REQUEST)
    except SettingsError as error:
        return _fail(error, EXIT_USAGE)
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go: without this Python would try once more on its way out
        # and end with its own exit code (Python documentation, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail("nobody reads the events any more", EXIT_FAILED)
    except (ChronosError, OSError) as error:
        return _fail(error, EXIT_FAILED)
    except MemoryError as error:
        return _fail(f"out of memory ({error}): lower batch_size or context_length", EXIT_FAILED)


def _run(arguments: argparse.Namespace, stop: StopRequest) -> int:
    config = load_config(arguments.config)
    if arguments.fresh:
        remove_checkpoints(arguments.output / CHECKPOINTS)
    trainer = Trainer(
        config=config,
        series=load_series(arguments.data, config.min_length),
        output=arguments.output,
        events=EventWriter(sys.stdout),
        stop=stop,
        rehearsal=Rehearsal.from_arguments(arguments),
    )
    return EXIT_OK if trainer.run() else EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chronos_ec2.instance.trainers.linear_quantile",
        description="Learn a linear quantile model from Parquet files of (item_id, timestamp, target).",
        epilog="Checkpoints in OUTPUT/checkpoints are continued from the newest whole one. "
        "Exit status: 0 done, 1 failed, 2 usage, 3 failed on request, 75 interrupted after a checkpoint.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the run's config.yaml")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of Parquet files")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--fresh", action="store_true", help="remove OUTPUT/checkpoints and start at step 0")
    Rehearsal.add_arguments(parser)
    return parser


def _fail(problem: object, status: int) -> int:
    say(f"error: {problem}")
    return status


if __name__ == "__main__":
    sys.exit(main())
