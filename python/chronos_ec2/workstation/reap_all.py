"""`invoke reap` over every environment: which there are, in which account and region, and one plan for all.

Environments that share an account and a region share a stack. In each such home reap looks at the
environments of invoke.yaml, at those that have a prefix in the bucket and at those that a tag or a schedule
names: what was forgotten may well have been taken out of invoke.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final, TextIO

from chronos_ec2.errors import ChronosError, LocalCloudDown, NotDeployed
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.instances import live_instances
from chronos_ec2.workstation.notices import Teller
from chronos_ec2.workstation.prices import table_rates
from chronos_ec2.workstation.reap import Reaper, reap_each
from chronos_ec2.workstation.reap_cost import usd_a_day
from chronos_ec2.workstation.s3 import list_folders
from chronos_ec2.workstation.settings import ENVIRONMENT_NAME, Settings, environment_names, load_settings
from chronos_ec2.workstation.switch_service import OutsideSwitches

RESERVED: Final = frozenset({"cached-datasets", "logs"})


def homes(environment: str | None) -> list[list[Settings]]:
    """The settings to look at, one list an account and region.

    Args:
        environment: only this one; None means every environment of invoke.yaml.
    """
    names = [environment] if environment else environment_names()
    found: dict[tuple[bool, str, str], list[Settings]] = {}
    for name in names:
        settings = load_settings(name)
        home = (settings.embedded, settings.aws_profile, settings.region)
        found.setdefault(home, []).append(settings)
    return list(found.values())


def switches_of(aws: Aws) -> OutsideSwitches | None:
    """The outside switches of a stack; None where it has no group and role for them."""
    group, role = aws.exports.get("ScheduleGroupName"), aws.exports.get("SchedulerRoleArn")
    return OutsideSwitches(aws.client("scheduler"), group, role) if group and role else None


def found_names(aws: Aws, switches: OutsideSwitches | None) -> set[str]:
    """The environments that something in the account names; what cannot be listed names none.

    Raises:
        ChronosError: EC2 could not be asked.
    """
    tagged = (
        tag["Value"]
        for item in live_instances(aws.ec2)
        for tag in item.get("Tags", [])
        if tag["Key"] == "Environment"
    )
    found = set(tagged)
    for look in (_prefixes, _scheduled):
        try:
            found |= set(look(aws, switches))
        except ChronosError:
            continue  # the environments' own reapers say why
    return {name for name in found if ENVIRONMENT_NAME.fullmatch(name) and name not in RESERVED}


def _prefixes(aws: Aws, _switches: OutsideSwitches | None) -> Iterable[str]:
    return list_folders(aws.s3, aws.bucket, "")


def _scheduled(_aws: Aws, switches: OutsideSwitches | None) -> Iterable[str]:
    return [item.environment for item in switches.armed()] if switches else []


def reapers(known: Sequence[Settings], out: TextIO, *, also_found: bool) -> Iterator[Reaper]:
    """One reaper for each environment of a home.

    Args:
        known: the home's environments in invoke.yaml; one that is not there has the first one's patience.
        also_found: whether to look for environments that invoke.yaml does not have.

    Raises:
        ChronosError: AWS could not be asked at all.
    """
    aws = Aws(known[0])
    try:
        bucket, trouble, switches = aws.bucket, None, switches_of(aws)
    except NotDeployed as error:
        bucket, trouble, switches = None, error, None
    settings = {item.environment: item for item in known}
    names = set(settings) | (found_names(aws, switches) if also_found else set())
    elsewhere = set(environment_names()) - set(settings) if also_found else set()
    for name in sorted(names):
        # Of two profiles of one account each finds the other's environments.
        own = settings.get(name) or (
            load_settings(name) if name in elsewhere else replace(known[0], environment=name)
        )
        tell = partial(Teller(own, aws.topic_arn, bucket).tell, "end") if bucket else (lambda run_id: None)
        yield Reaper(
            aws.s3,
            aws.ec2,
            bucket,
            name,
            stale_after=timedelta(minutes=own.stale_minutes),
            claim_patience=timedelta(seconds=own.claim_patience_seconds),
            out=out,
            tell=tell,
            switches=switches,
            trouble=trouble,
            region=own.region,
            now=aws.clock,
        )


def reap_everything(
    environment: str | None,
    *,
    out: TextIO,
    err: TextIO,
    dry_run: bool,
    as_json: bool,
    confirm: Callable[[], bool],
) -> ExitCode:
    """Reap one environment, or all of them everywhere.

    Args:
        environment: only this one; None means all of invoke.yaml and what is found beside them.
        out: where the plans go: text, or one JSON object an environment.
        err: where it says what it does.

    Returns:
        OK; FAILED when something that had to go is still there.

    Raises:
        ChronosError: something could not be looked at; the rest was.
    """
    found: list[Reaper] = []
    troubles: list[ChronosError] = []
    for known in homes(environment):
        names = ", ".join(item.environment for item in known)
        try:
            found += reapers(known, err, also_found=environment is None)
        except LocalCloudDown:
            if environment is not None:
                raise
            err.write(f"{names}: the embedded AWS is not running, so nothing is left of it\n")
        except ChronosError as error:
            err.write(f"{names}: not looked at: {error}\n")
            troubles.append(error)
    code = reap_each(
        found,
        out=out,
        dry_run=dry_run,
        as_json=as_json,
        confirm=confirm,
        price=lambda reaper, survey, actions: usd_a_day(survey, actions, table_rates(reaper.region)),
        forgive=() if environment else (NotDeployed,),
    )
    for trouble in troubles:
        raise trouble
    return code
