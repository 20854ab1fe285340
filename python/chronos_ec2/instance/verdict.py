"""How a training ended. Exit codes are one witness; the trainer's events and numbers are the others.

Transformers' just-in-time checkpoints exit 0 when they were interrupted, and a Trainer whose weights are NaN
exits 0 as well: both are told from the lines they printed.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final, Literal

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.instance.training_record import TrainingRecord

INTERRUPTED_EXIT: Final = 75
SIGNAL_EXIT_BASE: Final = 128


@dataclass(frozen=True, slots=True)
class Ending:
    """What goes into `training.json` and what the wrapper exits with."""

    status: Literal["completed", "interrupted", "failed"]
    exit_code: int
    error: str | None = None


def judge(
    returncode: int,
    record: TrainingRecord,
    *,
    signum: int | None,
    lost: str | None,
    needs_closing_events: bool,
    last_words: str,
) -> Ending:
    """Weigh the witnesses.

    A loss that is no number fails the training however it ended: nothing goes on from such weights. The last
    grad_norm alone does not, where it was interrupted: with fp16 a loss scaler skips such a step.

    Args:
        returncode: the command's exit status, negative for a signal.
        record: what its lines said.
        signum: the first signal that the wrapper got, if any.
        lost: why the heartbeat stopped the training, if it did.
        needs_closing_events: whether exit 0 without `train_end` and `final` is a failure.
        last_words: the last line on stderr.
    """
    code = returncode if returncode >= 0 else SIGNAL_EXIT_BASE - returncode
    if lost is not None:
        return Ending("interrupted", ExitCode.TERMINATED, lost)
    if signum is not None and needs_closing_events and record.closed:
        # torchrun exits with 1 when a signal comes, whatever its workers have finished.
        code = 0
    stopped = signum is not None and not (code == 0 and record.finished)
    stopped = stopped or record.interrupted or code == INTERRUPTED_EXIT
    broken = record.bad_loss if stopped else record.broken_numbers()
    if stopped and broken is None:
        by = f" by {signal.Signals(signum).name}" if signum is not None else ""
        fallback = SIGNAL_EXIT_BASE + signum if signum is not None else INTERRUPTED_EXIT
        if record.interrupted:
            # torchrun exits with 1 when a signal ends it, though its workers have saved and said so.
            code = INTERRUPTED_EXIT
        return Ending("interrupted", code or fallback, f"training was interrupted{by}")
    if code not in (0, INTERRUPTED_EXIT):
        reason = _describe_failure(returncode, last_words)
        return Ending("failed", code, f"{reason}; {broken}" if stopped else reason)
    if broken is not None:
        return Ending("failed", ExitCode.FAILED, f"the training command exited with {code}, but {broken}")
    missing = record.missing_events() if needs_closing_events else []
    if missing:
        reason = f"the trainer exited with 0, but never said {' and '.join(missing)}"
        return Ending("failed", ExitCode.FAILED, reason)
    return Ending("completed", ExitCode.OK)


def _describe_failure(returncode: int, last_words: str) -> str:
    if returncode >= 0:
        reason = f"the training command exited with {returncode}"
    else:
        reason = f"the training command was killed by {_signal_name(-returncode)}"
        if returncode == -signal.SIGKILL:
            reason += " (if nobody sent it, the memory ran out: take a larger instance or a smaller batch)"
    return f"{reason}; it last said: {last_words}" if last_words else reason


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
