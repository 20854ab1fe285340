"""The project's errors, each with the exit code that a command ends with.

ChronosError
├── UsageProblem          the caller's words are off
├── SettingsError         invoke.yaml, a flag or an environment variable
├── StateError
│   ├── StateHeld         another run holds the environment
│   ├── StateMissing      there is no state file
│   ├── StateUnreadable   not JSON, or not the schema
│   ├── StateConflict     another writer won, again and again
│   └── IllegalTransition the document's table forbids the move
├── StorageDenied         S3 refused
├── NotDeployed           CloudFormation exports are missing
├── NotUploaded           scripts, environment or data are not in the bucket
├── DataInvalid           the user's Parquet is not what a trainer can read
├── NoSuchRun             no record of that run
├── ToolMissing           a program that a task needs is not installed
├── TooDear               the money allowed does not reach for a run
├── NoCredentials         AWS has no credentials to work with, or refused them
└── LocalCloudDown        the embedded AWS is not running
"""

from __future__ import annotations

from typing import ClassVar

from chronos_ec2.exit_codes import ExitCode


class ChronosError(Exception):
    """A failure that a person can act on: the message says what is wrong and what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class UsageProblem(ChronosError):
    """A flag or an argument is not what the command takes."""

    exit_code = ExitCode.USAGE


class SettingsError(ChronosError):
    """A setting is unknown, of the wrong type or out of range; names the source and the key."""

    exit_code = ExitCode.SETTINGS_INVALID


class StateError(ChronosError):
    """Something about the state file."""

    exit_code = ExitCode.STATE_UNREADABLE


class StateHeld(StateError):
    """Another run holds the environment."""

    exit_code = ExitCode.HELD


class StateMissing(StateError):
    """There is no state file: no run holds the environment."""

    exit_code = ExitCode.NO_SUCH_RUN


class StateUnreadable(StateError):
    """The state file is not JSON, or not the schema of the document."""

    exit_code = ExitCode.STATE_UNREADABLE


class StateConflict(StateError):
    """Another writer won every time."""

    exit_code = ExitCode.STATE_CONFLICT


class IllegalTransition(StateError):
    """The table of transitions forbids the move; nothing was changed."""

    exit_code = ExitCode.ILLEGAL_TRANSITION


class StorageDenied(ChronosError):
    """S3 refused a call."""

    exit_code = ExitCode.S3_DENIED


class NotDeployed(ChronosError):
    """The stack's exports are missing."""

    exit_code = ExitCode.NOT_DEPLOYED


class NotUploaded(ChronosError):
    """Scripts, environment or data are not in the bucket."""

    exit_code = ExitCode.NOT_UPLOADED


class DataInvalid(ChronosError):
    """The training data is not (item_id, timestamp, target) in readable Parquet."""

    exit_code = ExitCode.DATA_INVALID


class NoSuchRun(ChronosError):
    """The bucket has no record of that run."""

    exit_code = ExitCode.NO_SUCH_RUN


class ToolMissing(ChronosError):
    """A program that a task needs is not installed."""

    exit_code = ExitCode.TOOL_MISSING


class NoCredentials(ChronosError):
    """AWS has no credentials to work with, or refused them."""

    exit_code = ExitCode.NO_CREDENTIALS


class LocalCloudDown(ChronosError):
    """The embedded AWS is not running."""

    exit_code = ExitCode.LOCAL_CLOUD_DOWN


class TooDear(ChronosError):
    """The money that a run may cost does not reach for one, or nobody knows whether it does."""

    exit_code = ExitCode.TOO_DEAR
