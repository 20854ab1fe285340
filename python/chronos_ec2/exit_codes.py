"""Every exit code of the project, in one table; `shell/lib/exit_codes.sh` holds the same for Bash."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status says. A test compares this table with the one that Bash reads."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_CREDENTIALS = 10
    NOT_DEPLOYED = 11
    HELD = 12
    ILLEGAL_TRANSITION = 13
    STATE_UNREADABLE = 14
    S3_DENIED = 15
    NO_AMI = 16
    LAUNCH_REFUSED = 17
    NOT_UPLOADED = 18
    DATA_INVALID = 19
    RUN_FAILED = 20
    RUN_KILLED = 21
    RUN_LOST = 22
    TOOL_TOO_OLD = 23
    TOOL_MISSING = 24
    NOT_AN_INSTANCE = 25
    SETTINGS_INVALID = 26
    NO_SUCH_RUN = 27
    STATE_CONFLICT = 28
    LOCAL_CLOUD_DOWN = 29
    TOO_DEAR = 30
    NOT_READY = 31
    RUN_INTERRUPTED = 32
    INTERRUPTED = 130
    NOBODY_READS = 141
    TERMINATED = 143
