"""One run as its records tell it: run.json, and the state file while the run holds its environment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from chronos_ec2.errors import UsageProblem
from chronos_ec2.report.run_files import mapping, moment
from chronos_ec2.report.usage import Usage, usage_of
from chronos_ec2.state.clock import to_text
from chronos_ec2.words import one_line, printable
from chronos_ec2.workstation.outcome import nodes_of
from chronos_ec2.workstation.run_cost import billed_until, cost_until, number_of

_STEPS: Final = ("interrupted_at_step", "checkpoint_step", "resumed_from_step")
OUTCOMES: Final = (
    *("running", "succeeded", "failed", "interrupted", "killed", "lost", "launch_failed", "unknown"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run as its records tell it.

    Attributes:
        outcome: running, succeeded, failed, interrupted, killed, lost, launch_failed, or unknown.
        current_step: where the run is now, while it is running.
        cost_usd: as in run.json; up to now for a run that goes on; None where nobody knows.
        wql, baseline_wql: the model's weighted quantile loss, and the seasonal-naive forecast's.
        interrupted_at_step, checkpoint_step: how far it had come, and what of that is safe in S3.
        resume_from, resumed_from_step: the run that it went on from, and where.
        continued_by: the newest run that went on from it, or from where it itself could be gone on from.
        git_commit: of the repository at the launch; a `+` behind it says that files differed from it.
        metrics, baseline_metrics: the model's figures, and the seasonal-naive forecast's, by name.
        usage: where its billed seconds went; None where nobody knows.
        problem: what is wrong with the record itself, for a person.
    """

    run_id: str
    environment: str
    outcome: str = "unknown"
    failed_step: str | None = None
    current_step: str | None = None
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_seconds: float | None = None
    cost_usd: Mapping[str, Any] | None = None
    wql: float | None = None
    baseline_wql: float | None = None
    instance_type: str | None = None
    instance_id: str | None = None
    nodes: int = 1
    interrupted_at_step: int | None = None
    checkpoint_step: int | None = None
    resume_from: str | None = None
    resumed_from_step: int | None = None
    git_commit: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline_metrics: Mapping[str, float] = field(default_factory=dict)
    usage: Usage | None = None
    continued_by: str | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The record with times as text, for `--json`."""
        return {
            name: to_text(value) if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


def check_outcomes(outcomes: Collection[str]) -> frozenset[str]:
    """Return the outcomes if runs can have them.

    Raises:
        UsageProblem: one is none; names those there are.
    """
    for outcome in outcomes:
        if outcome not in OUTCOMES:
            raise UsageProblem(f"--outcome: got {outcome!r}, need one of {', '.join(OUTCOMES)}")
    return frozenset(outcomes)


def parse_record(
    environment: str,
    run_id: str,
    document: Mapping[str, Any] | None,
    state: Mapping[str, Any] | None,
    now: datetime,
) -> RunRecord:
    """One run from its run.json and, while it holds the environment, its state file.

    Args:
        document: the decoded run.json; None when it is missing or unreadable.
        state: the state file's body if it belongs to this run.
        now: for the duration of a run that goes on.
    """
    document = document or {}
    state = state or {}
    machine = mapping(document.get("instance"))
    started = moment(document.get("started_at")) or _moment_of_id(run_id)
    ended = moment(document.get("ended_at"))
    outcome = document.get("outcome") or ("running" if state else "unknown")
    until = ended or (now if outcome == "running" else None)
    instance_id = _text(machine.get("id")) or _text(state.get("instance_id"))
    metrics, baselines = _figures(mapping(document.get("metrics")))
    return RunRecord(
        run_id=run_id,
        environment=environment,
        outcome=_text(outcome) or "unknown",
        failed_step=_text(document.get("failed_step")),
        current_step=_text(state.get("current_step")) if outcome == "running" else None,
        error=_prose(document.get("error")) or _prose(state.get("error_message")),
        started_at=started,
        ended_at=ended,
        duration_seconds=max(0.0, (until - started).total_seconds()) if until and started else None,
        cost_usd=cost_until(document, now, instance_id) if outcome == "running" else _cost(document),
        wql=metrics.get("WQL"),
        baseline_wql=baselines.get("WQL"),
        git_commit=_commit(document),
        metrics=metrics,
        baseline_metrics=baselines,
        instance_type=_text(machine.get("type")) or _text(state.get("instance_type")),
        instance_id=instance_id,
        nodes=nodes_of(state, document),
        resume_from=_text(document.get("resume_from")),
        **{name: _step(document.get(name)) for name in _STEPS},
        continued_by=None,
        usage=usage_of(document, billed_until(document, now), now, state) if started else None,
        problem="run.json has no end, and no state file holds the run" if outcome == "unknown" else None,
    )


def _cost(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return mapping(document.get("cost_usd")) or None


def _step(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    """A field's text in a line, whatever its type: it is printed where it could steer a terminal."""
    return None if value is None else one_line(str(value))


def _prose(value: object) -> str | None:
    return None if value is None else printable(str(value))


def _moment_of_id(run_id: str) -> datetime | None:
    try:
        return datetime.strptime(run_id, "%Y-%m-%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _figures(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The model's and the baseline's figures; a trainer's `final` event may be nested or flat."""
    model = mapping(metrics.get("metrics")) or metrics
    baseline = mapping(mapping(metrics.get("baselines")).get("seasonal_naive"))
    return _numbers(model), _numbers(baseline)


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    known = ((one_line(str(name)), _number(value)) for name, value in figures.items())
    return {name: value for name, value in known if value is not None}


def _commit(document: Mapping[str, Any]) -> str | None:
    git = mapping(document.get("git"))
    commit = _text(git.get("commit"))
    return None if commit is None else commit + ("+" if git.get("dirty") else "")


def _number(value: object) -> float | None:
    number = number_of(value)
    return None if number is None else float(number)
