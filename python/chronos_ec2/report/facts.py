"""The report's tables: what was asked for, on which machine and data, when, for how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from chronos_ec2.report.run_files import RunFiles, day_and_time, entries, mapping, moment, number
from chronos_ec2.report.usage import usage_of
from chronos_ec2.words import money_text, size_text, span_text

Rows = list[tuple[str, str]]
_COST_PARTS: Final = {
    "compute": "machine",
    "disk": "disk",
    "requests": "S3 requests",
    "address": "public address",
}
_MOST_FILES: Final = 12
_FLAWS: Final = {
    "dropped_short": "Series left out",
    "gaps": "Gaps in time",
    "other_spacing": "Series spaced otherwise",
    "unscored": "Series not scored",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """One part of a run's time, for a bar: where it begins and how wide it is, in percent of all.

    Attributes:
        kind: `wait` (before the machine does anything), `work`, `training`, or `failed`.
    """

    name: str
    begins: float
    width: float
    seconds: float
    words: str
    kind: str


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the cost."""

    name: str
    words: str
    percent: float


def headline(run: RunFiles, now: datetime) -> Rows:
    """The figures that come first."""
    record = run.record
    start, end = moment(record.get("started_at")), moment(record.get("ended_at"))
    rows: Rows = []
    if start is not None:
        spent = max(0.0, ((end or now) - start).total_seconds())
        rows.append(("Duration" if end else "So far", span_text(spent)))
    cost = mapping(record.get("cost_usd"))
    if cost:
        total = number(cost.get("total"))
        rows.append(("Cost", ("at most " if cost.get("at_most") and total else "") + money_text(total)))
    metrics, naive = _metrics(run), mapping(_baselines(run).get("seasonal_naive"))
    for name in ("WQL", "MASE"):
        value, beside = number(metrics.get(name)), number(naive.get(name))
        if value is not None:
            rows.append((name, f"{value:.4f}"))
        if value is not None and beside:
            better = 100 * (1 - value / beside)
            rows.append(
                (
                    f"{name} against seasonal naive",
                    f"{abs(better):.0f} % {'better' if better >= 0 else 'worse'}",
                )
            )
    machine = mapping(record.get("instance"))
    if machine.get("type"):
        rows.append(
            ("Machine", " ".join(str(machine[key]) for key in ("type", "market") if machine.get(key)))
        )
    return rows


def _metrics(run: RunFiles) -> Mapping[str, Any]:
    return mapping(run.training.get("metrics")) or mapping(run.record.get("metrics"))


def _baselines(run: RunFiles) -> Mapping[str, Any]:
    return mapping(run.training.get("baselines")) or mapping(
        mapping(run.record.get("metrics")).get("baselines")
    )


def errors_table(run: RunFiles) -> list[tuple[str, str, str]]:
    """WQL and MASE of the model and of each baseline, the model first."""
    rows = []
    for name, figures in {"model": _metrics(run), **_baselines(run)}.items():
        wql, mase = (number(mapping(figures).get(key)) for key in ("WQL", "MASE"))
        if wql is not None or mase is not None:
            words = ["-" if value is None else f"{value:.4f}" for value in (wql, mase)]
            rows.append((str(name).replace("_", " "), words[0], words[1]))
    return rows


def billed_time(record: Mapping[str, Any], now: datetime) -> str | None:
    """What the billed seconds went into, as a sentence; None without milestones or without prices."""
    seconds = number(mapping(record.get("cost_usd")).get("seconds"))
    found = usage_of(record, None if seconds is None else int(seconds), now)
    return found.account if found else None


def timeline(record: Mapping[str, Any], now: datetime) -> list[Stretch]:
    """The run's time from the launch to the end, in stretches without overlap."""
    start = moment(record.get("started_at"))
    if start is None:
        return []
    end = moment(record.get("ended_at")) or now
    total = max(1.0, (end - start).total_seconds())
    found = []
    for name, begin, seconds, kind in _stretches(record, start, end):
        place = min(100.0, max(0.0, 100 * (begin - start).total_seconds() / total))
        width = min(100.0 - place, 100 * seconds / total)
        found.append(Stretch(name, round(place, 3), round(width, 3), seconds, span_text(seconds), kind))
    return found


def _stretches(
    record: Mapping[str, Any], start: datetime, end: datetime
) -> Iterator[tuple[str, datetime, float, str]]:
    launched = moment(record.get("launched_at")) or start
    if launched > start:
        yield "launch", start, (launched - start).total_seconds(), "wait"
    last = launched
    for phase in entries(record.get("phases")):
        begin, seconds = moment(phase.get("started_at")), number(phase.get("seconds"))
        if begin is None or seconds is None:
            continue
        if last is launched and begin > launched:
            yield "boot", launched, (begin - launched).total_seconds(), "wait"
        name = str(phase.get("name"))
        failed = phase.get("outcome") != "ok"
        yield name, begin, seconds, "failed" if failed else "training" if name == "training" else "work"
        last = moment(phase.get("ended_at")) or begin
    if record.get("ended_at") and (end - last).total_seconds() >= 1:
        yield "end", last, (end - last).total_seconds(), "wait"


def cost_split(record: Mapping[str, Any]) -> list[Share]:
    """What the run has cost, by part."""
    cost = mapping(record.get("cost_usd"))
    total = number(cost.get("total"))
    return [
        Share(
            words,
            money_text(number(cost.get(name))),
            100 * (number(cost.get(name)) or 0.0) / total if total else 0.0,
        )
        for name, words in _COST_PARTS.items()
        if name in cost
    ]


def run_facts(run: RunFiles) -> Rows:
    """Who asked for what, when, from which commit."""
    record, git = run.record, mapping(run.record.get("git"))
    commit = str(git.get("commit") or "not known") + (" with uncommitted changes" if git.get("dirty") else "")
    rows = [
        ("Started", day_and_time(record.get("started_at"))),
        ("Ended", day_and_time(record.get("ended_at")) if record.get("ended_at") else "not yet"),
        ("Requested by", str(record.get("requested_by") or "not known")),
        ("Git commit", commit),
        ("Scripts (sha256)", str(record.get("scripts_sha256") or "not known")),
    ]
    if record.get("resume_from"):
        rows.append(("Goes on from", f"{record['resume_from']}, step {record.get('resumed_from_step')}"))
    if record.get("exit_code") is not None:
        rows.append(("Exit code", str(record["exit_code"])))
    return rows


def environment_facts(run: RunFiles) -> Rows:
    """Machine, image, training environment, versions."""
    record, machine = run.record, mapping(run.record.get("instance"))
    ami, archive = record.get("ami"), mapping(record.get("environment_archive"))
    rows = [(f"Instance {name}", str(value)) for name, value in machine.items() if value is not None]
    rows += [(f"Image {name}", str(value)) for name, value in mapping(ami).items() if value]
    if archive:
        rows.append(("Training environment", f"{archive.get('key')} (sha256 {archive.get('sha256')})"))
    rows += [(str(name), str(version)) for name, version in mapping(run.training.get("versions")).items()]
    parameters = number(mapping(run.training.get("model")).get("parameters"))
    if parameters is not None:
        rows.append(("Model parameters", f"{parameters:,.0f}"))
    return rows


def checks(preflight: Mapping[str, Any]) -> list[tuple[bool, str, str]]:
    """The preflight's checks: whether each was passed, its name, what it found."""
    return [
        (bool(check.get("ok")), str(check.get("name")), str(check.get("detail")))
        for check in entries(preflight.get("checks"))
    ]


def data_facts(run: RunFiles) -> Rows:
    """How much data, in which files, and what of them could not be used."""
    uploaded, used = mapping(run.record.get("dataset")), mapping(run.training.get("data"))
    rows = []
    for name in ("series", "rows"):
        some, every = number(used.get(name)), number(uploaded.get(name))
        counts = [f"{count:,.0f}" for count in (some, every) if count is not None]
        if counts:
            rows.append((name.capitalize(), " of ".join(dict.fromkeys(counts))))
    for name, words in _FLAWS.items():
        if count := number(used.get(name)):
            rows.append((words, f"{count:,.0f}"))
    if share := number(used.get("missing_share")):
        rows.append(("Targets missing", f"{100 * share:.1f} %"))
    files = entries(used.get("files") or uploaded.get("files"))
    for file in files[:_MOST_FILES]:
        size = number(file.get("bytes"))
        rows.append((str(file.get("name")), "" if size is None else size_text(size)))
    if len(files) > _MOST_FILES:
        rows.append(("More files", str(len(files) - _MOST_FILES)))
    if digest := mapping(run.record.get("dataset")).get("manifest_sha256"):
        rows.append(("Manifest (sha256)", str(digest)))
    warnings = run.training.get("warnings")
    rows += [("Warning", str(line)) for line in (warnings if isinstance(warnings, list) else [])]
    return rows
