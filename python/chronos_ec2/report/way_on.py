"""How to go on with a run that ran out of machine or of time: the report's, `watch`'s and `runs`' rules."""

from __future__ import annotations

from typing import Final

DEADLINE_WORDS: Final = "deadline reached"
"""How the machine's own reason begins when its deadline ended the run (shell/lib/deadline.sh)."""


def reached_deadline(outcome: object, error: object) -> bool:
    """Whether the run was ended shortly before its deadline, to save (shell/lib/deadline.sh).

    It is `lost` when the machine went off before it had written more than the reason.
    """
    return outcome in ("failed", "lost") and str(error or "").startswith(DEADLINE_WORDS)


def next_launch(environment: object, run_id: object, checkpoint_step: object, resume_from: object) -> str:
    """The launch that goes on with a run: from its own checkpoint, else from the run it went on from."""
    source = run_id if checkpoint_step is not None else resume_from
    return f"invoke launch --env {environment}" + (f" --resume {source}" if source else "")
