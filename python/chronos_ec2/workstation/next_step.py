"""What a person may want to do next with a run that has ended, as a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chronos_ec2.workstation.runs import RunRecord

DEADLINE_WORDS = "deadline reached"
"""How the machine's own reason begins when its deadline ended the run (shell/lib/deadline.sh)."""


def reached_deadline(record: RunRecord) -> bool:
    """Whether the run was ended shortly before its deadline, to save (shell/lib/deadline.sh).

    It is `lost` when the machine went off before it had written more than the reason.
    """
    return record.outcome in ("failed", "lost") and (record.error or "").startswith(DEADLINE_WORDS)


def next_command(record: RunRecord) -> str:
    """Fetch what succeeded, go on with what ran out of machine or of time, look at the log of the rest."""
    if record.outcome == "interrupted" or reached_deadline(record):
        return way_on(record)
    verb = "fetch" if record.outcome == "succeeded" else "logs"
    return f"invoke {verb} --env {record.environment} --run {record.run_id}"


def ec2_warning(state: Mapping[str, Any]) -> str | None:
    """What EC2 has told a spot machine, by the marks that the machine makes in the state file."""
    control = state.get("control") or {}
    if isinstance(notice := control.get("interruption"), dict):
        return f"EC2 takes the spot machine back at {notice.get('time')}; it is saving"
    if hint := control.get("rebalance_recommended_at"):
        return f"EC2 said at {hint} that it may take the spot machine back"
    return None


def way_on(record: RunRecord) -> str:
    """The launch that goes on with a run: from its own checkpoint, else from the run it went on from."""
    source = record.run_id if record.checkpoint_step is not None else record.resume_from
    return f"invoke launch --env {record.environment}" + (f" --resume {source}" if source else "")


def unfinished(records: Sequence[RunRecord]) -> list[str]:
    """A line for every run that another one could go on from, and none has, newest first."""
    taken_up = {record.resume_from for record in records}
    lines = []
    for record in records:
        late = reached_deadline(record)
        if record.run_id in taken_up or not (late or record.outcome == "interrupted"):
            continue
        what = "ended by its deadline" if late else "interrupted"
        where = f" at step {record.interrupted_at_step}" if record.interrupted_at_step is not None else ""
        step = record.checkpoint_step
        saved = "nothing saved" if step is None else f"saved up to step {step}"
        lines.append(f"{record.run_id}: {what}{where}, {saved}; go on: {way_on(record)}")
    return lines
