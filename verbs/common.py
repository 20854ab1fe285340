"""What the tasks share: help of common flags, settings, errors as exit codes, running a command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from invoke.exceptions import Exit

from chronos_ec2.errors import ChronosError, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation import commands
from chronos_ec2.workstation.setting_values import parse_assignments
from chronos_ec2.workstation.settings import REPOSITORY, Settings, load_settings

ENV = {"env": "environment of invoke.yaml; default: its default_environment"}
SET = {"set_": "KEY=VALUE: a setting for this call only; may be given again"}
RUN = {"run": "run id; default: the active run, else the newest"}
JSON = {"json": "print JSON on stdout"}
DRY = {"dry_run": "print what would be done, change nothing"}
STATE_FOLDER = REPOSITORY / ".chronos"


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the project's errors into a line of text and an exit code of their own.

    A reader of the output that has enough, as `head`, ends the task without a word.
    """
    try:
        yield
        sys.stdout.flush()
    except ChronosError as error:
        raise Exit(f"{type(error).__name__}: {error}", code=int(error.exit_code)) from error
    except BrokenPipeError as error:
        with contextlib.suppress(OSError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what is left would complain at the end
        raise Exit(code=int(ExitCode.NOBODY_READS)) from error
    except OSError as error:  # a folder that may not be written, a disk that is full
        where = f"{error.filename}: " if error.filename else ""
        raise Exit(f"{where}{error.strerror or error}", code=int(ExitCode.FAILED)) from error
    except KeyboardInterrupt as error:
        raise Exit("interrupted", code=int(ExitCode.INTERRUPTED)) from error


def settings_of(env: str | None, assignments: list[str] | None = None) -> Settings:
    """One environment's settings, flags over environment variables over the file."""
    with clear_errors():
        return load_settings(env, parse_assignments(assignments or []))


def count(flag: str, text: str) -> int:
    """A flag's whole number, 0 at least."""
    if not text.isdecimal() or len(text) > 9:
        raise UsageProblem(f"{flag}: got {text!r}, need a whole number from 0")
    return int(text)


def positive_seconds(flag: str, text: str) -> float:
    """A flag's number of seconds, 0.2 at least."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise UsageProblem(f"{flag}: got {text!r}, need 0.2 to 3600 seconds")
    return seconds


def run(argv: list[str], settings: Settings | None = None) -> None:
    """Run a command; a failure ends the task with the command's own exit code."""
    with clear_errors():
        env = commands.aws_environment(settings) if settings else commands.base_environment()
        code = commands.run_command(argv, env=env)
    if code:
        raise Exit(code=code)
