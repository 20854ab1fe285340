"""What a person may want to do next with a run that has ended, as a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chronos_ec2.report.way_on import next_launch, reached_deadline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chronos_ec2.workstation.run_record import RunRecord


def next_command(record: RunRecord) -> str:
    """Fetch what succeeded, go on with what ran out of machine or of time, look at the log of the rest."""
    if record.outcome == "interrupted" or reached_deadline(record.outcome, record.error):
        return way_on(record)
    if record.outcome == "launch_failed":  # no machine has said anything
        return f"invoke doctor --env {record.environment}"
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
    return next_launch(record.environment, record.run_id, record.checkpoint_step, record.resume_from)


def unfinished(records: Sequence[RunRecord]) -> list[str]:
    """A line for every run that another one could go on from, and none has, newest first."""
    lines = []
    for record in records:
        late = reached_deadline(record.outcome, record.error)
        if record.continued_by or not (late or record.outcome == "interrupted"):
            continue
        what = "ended by its deadline" if late else "interrupted"
        where = f" at step {record.interrupted_at_step}" if record.interrupted_at_step is not None else ""
        step = record.checkpoint_step
        saved = "nothing saved" if step is None else f"saved up to step {step}"
        lines.append(f"{record.run_id}: {what}{where}, {saved}; go on: {way_on(record)}")
    return lines
