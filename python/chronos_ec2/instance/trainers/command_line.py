"""The command line that all trainers share: flags, exit statuses, one line for what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.instance.process_tree import die_with_wrapper
from chronos_ec2.instance.trainers.checkpoints import remove_checkpoints
from chronos_ec2.instance.trainers.rehearsal import FailedOnRequest, Rehearsal
from chronos_ec2.instance.trainers.settings import load_config

CHECKPOINTS: Final = "checkpoints"
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_FAILED_ON_REQUEST: Final = 3
EXIT_INTERRUPTED: Final = 75

Config = TypeVar("Config")


def say(text: str) -> None:
    """Tell a person, on stderr: stdout belongs to the events."""
    print(text, file=sys.stderr, flush=True)


def run_trainer(
    train: Callable[[Config, argparse.Namespace], bool],
    config: type[Config],
    about: str,
    argv: Sequence[str] | None = None,
    *,
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """Run a trainer's command line.

    Args:
        train: trains with settings and flags; whether it came to its end.
        config: the class of its settings.
        about: what it says of itself: the head of its module.
        argv: the command line; None takes the process's own.
        add_arguments: adds flags that this trainer alone has.

    Returns:
        0 done; 1 failed; 2 a wrong flag or setting; 3 failed on request; 75 stopped after a checkpoint.
    """
    parser = _parser(about)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    if not die_with_wrapper(os.environ):
        return _fail("the wrapper that started this training is gone", EXIT_FAILED)
    try:
        settings = load_config(arguments.config, config)
        if arguments.fresh:
            remove_checkpoints(arguments.output / CHECKPOINTS)
        return EXIT_OK if train(settings, arguments) else EXIT_INTERRUPTED
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


def _parser(about: str) -> argparse.ArgumentParser:
    summary, _, rest = about.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest.strip(), formatter_class=argparse.RawDescriptionHelpFormatter
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
