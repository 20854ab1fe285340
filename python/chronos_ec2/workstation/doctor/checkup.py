"""The doctor's round: every check, side by side where none waits for another, reported in one order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, TextIO

from chronos_ec2.errors import ChronosError, StorageDenied
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.doctor import (
    account,
    bucket,
    disk,
    holdings,
    image,
    machines,
    network,
    quota,
    rehearsal,
    stack,
    tools,
    uploads,
)
from chronos_ec2.workstation.doctor.answers import ApiError, NotKnown
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, Level, error, warning

WORKERS: Final = 16
_NAME_WIDTH: Final = 18


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: what it is about.
        look: does it; what it raises becomes a finding.
        vital: whether a launch makes the same calls, so that a permission which is missing here is missing
            there; otherwise it is a warning that nobody could look.
    """

    name: str
    look: Callable[[], list[Finding]]
    vital: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What one check found.

    Attributes:
        because: the check whose error left this one nothing to look at; then there are no findings.
    """

    check: str
    findings: tuple[Finding, ...]
    because: str = ""


def checks(facts: Facts, machine: tools.Machine) -> list[Check]:
    """Every check, in the order of the report: what stands on something comes after it."""
    return [
        Check("programs", partial(tools.programs, machine)),
        Check("aws command", partial(tools.aws_command, machine)),
        Check("packages", partial(tools.python_packages, machine)),
        Check("cdk", partial(tools.cdk, machine)),
        Check("credentials", partial(account.credentials, facts)),
        Check("clock", partial(account.clock, facts)),
        Check("region", partial(account.region, facts), vital=False),
        Check("exports", partial(stack.exports, facts)),
        Check("bucket", partial(bucket.bucket, facts)),
        Check("bucket privacy", partial(bucket.bucket_privacy, facts), vital=False),
        Check("conditional writes", partial(bucket.conditional_writes, facts)),
        Check("instance profile", partial(stack.instance_profile, facts), vital=False),
        Check("subnets", partial(network.subnets_check, facts), vital=False),
        Check("S3 endpoint", partial(network.s3_endpoint, facts), vital=False),
        Check("security group", partial(network.security_group, facts), vital=False),
        Check("instance type", partial(machines.instance_types_check, facts), vital=False),
        Check("zones", partial(machines.zones, facts), vital=False),
        Check("quota", partial(quota.quotas, facts), vital=False),
        Check("image", partial(image.image_check, facts)),
        Check("launch permission", partial(rehearsal.launch_permission, facts, machine)),
        Check("outside switch", partial(stack.outside_switch, facts), vital=False),
        Check("notices", partial(stack.notices, facts), vital=False),
        Check("scripts", partial(uploads.scripts, facts, machine.repository)),
        Check("environment", partial(uploads.environment, facts)),
        Check("data", partial(uploads.data, facts)),
        Check("disk", partial(disk.disk, facts), vital=False),
        Check("holder", partial(holdings.holder, facts)),
        Check("leftovers", partial(holdings.leftovers, facts)),
    ]


def examine(facts: Facts, wanted: Sequence[Check], *, workers: int = WORKERS) -> Iterator[Report]:
    """Run checks side by side; give their reports in the checks' order, each as soon as its turn has come."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        yield from pool.map(lambda check: _report(facts, check), wanted)


def _report(facts: Facts, check: Check) -> Report:
    """A check's report, whatever the check does."""
    try:
        return Report(check.name, tuple(check.look()))
    except NotKnown as problem:
        if problem.owner != check.name:
            return Report(check.name, (), because=problem.owner)
        return Report(check.name, (_broken(facts, check, problem.cause),))
    except Exception as problem:  # a fault in one check must not hide what the others have found
        return Report(check.name, (_broken(facts, check, problem),))


def _broken(facts: Facts, check: Check, problem: Exception) -> Finding:
    say = error if check.vital else warning
    again = f"invoke doctor --env {facts.settings.environment} (again)"
    if isinstance(problem, ApiError) and problem.denied:
        who = facts.identity()
        return say(f"{who} may not {problem.action}", f"allow {problem.action} to {who} (an IAM policy)")
    if isinstance(problem, StorageDenied):
        return say(str(problem), f"allow it to {facts.identity()} (an IAM policy, or the bucket's)")
    if isinstance(problem, ApiError | ChronosError):
        return say(str(problem), again)
    return error(f"the check itself failed: {type(problem).__name__}: {problem}", again)


def print_report(
    reports: Iterator[Report], environment: str, out: TextIO, *, as_json: bool = False
) -> ExitCode:
    """Say what was found, a line a finding, or as one JSON object.

    Returns:
        OK without an error, else NOT_READY.
    """
    counts: Counter[Level] = Counter()
    seen: list[Report] = []
    for report in reports:
        seen.append(report)
        counts.update(finding.level for finding in report.findings)
        if not as_json:
            out.writelines(f"{_line(report.check, finding)}\n" for finding in report.findings)
            out.flush()
    out.write(
        json.dumps(_as_json(seen, environment)) + "\n" if as_json else _ending(seen, counts, environment)
    )
    return ExitCode.NOT_READY if counts[Level.ERROR] else ExitCode.OK


def _line(name: str, finding: Finding) -> str:
    advice = f"  ->  {finding.advice}" if finding.advice else ""
    return f"{finding.level:<8} {name:<{_NAME_WIDTH}} {finding.text}{advice}"


def _ending(reports: Sequence[Report], counts: Counter[Level], environment: str) -> str:
    skipped: dict[str, list[str]] = {}
    for report in reports:
        if report.because:
            skipped.setdefault(report.because, []).append(report.check)
    lines = [
        f"not checked, for want of {because}: {', '.join(names)}\n" for because, names in skipped.items()
    ]
    total = f"{counts[Level.OK]} ok, {counts[Level.WARNING]} warnings, {counts[Level.ERROR]} errors"
    return "".join([*lines, f"{environment}: {total}\n"])


def _as_json(reports: Sequence[Report], environment: str) -> dict[str, Any]:
    findings = [{"check": report.check, **asdict(one)} for report in reports for one in report.findings]
    return {
        "environment": environment,
        "ready": not any(one["level"] == Level.ERROR for one in findings),
        "findings": findings,
        "not_checked": [{"check": one.check, "because": one.because} for one in reports if one.because],
    }


def doctor(
    facts: Facts, out: TextIO, *, as_json: bool = False, machine: tools.Machine | None = None
) -> ExitCode:
    """Examine an environment and report.

    Returns:
        OK when a launch would find everything it needs, with warnings or without; else NOT_READY.
    """
    wanted = checks(facts, machine or tools.Machine())
    return print_report(examine(facts, wanted), facts.settings.environment, out, as_json=as_json)
