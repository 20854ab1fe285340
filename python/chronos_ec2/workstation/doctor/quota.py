"""How many vCPUs the account may run, against what the settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chronos_ec2.workstation.doctor.answers import ApiError
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.machines import instance_types
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.quotas import Market, Quota, increase_command, quota_of

_MARKETS: Final[tuple[Market, ...]] = ("on-demand", "spot")
_OPEN: Final = ("PENDING", "CASE_OPENED")


@dataclass(frozen=True, slots=True)
class Need:
    """What the settings ask of one quota.

    Attributes:
        vcpus: of the largest type that counts against it, for all machines that a launch starts.
        first: whether the first choice, `instance_type`, counts against it.
    """

    quota: Quota
    vcpus: int
    first: bool


def quotas(facts: Facts) -> list[Finding]:
    """The quota of each family in the settings, on-demand and spot; a line each."""
    findings = []
    for market in _MARKETS:
        needs, without = _needs(facts, market)
        findings += [_judge(facts, need) for need in needs]
        findings += [_unknown(facts, name, market) for name in without]
    return findings


def _needs(facts: Facts, market: Market) -> tuple[list[Need], list[str]]:
    """What a market's quotas must allow, and the types for which no quota is known."""
    needs: dict[str, Need] = {}
    without = []
    for name, described in instance_types(facts).items():
        quota = quota_of(name, market)
        vcpus = facts.settings.nodes * int(described["VCpuInfo"]["DefaultVCpus"])
        if quota is None:
            without.append(name)
            continue
        held = needs.get(quota.code)
        first = name == facts.settings.instance_type
        if held is not None:
            vcpus, first = max(vcpus, held.vcpus), first or held.first
        needs[quota.code] = Need(quota, vcpus, first)
    return list(needs.values()), without


def _unknown(facts: Facts, name: str, market: Market) -> Finding:
    text = f"no quota is known for {name} {market}"
    command = f"aws service-quotas list-service-quotas --service-code ec2{_in(facts)}"
    return warning(text, f"{command} (look for it)")


def _judge(facts: Facts, need: Need) -> Finding:
    quota, vcpus = need.quota, need.vcpus
    request = {"ServiceCode": "ec2", "QuotaCode": quota.code}
    limit = _limit(facts, request)
    used = _in_use(facts, quota)
    words = f"{quota.name} ({quota.code}): {limit} vCPU, {vcpus} needed, {used} in use"
    if limit - used >= vcpus:
        return ok(words)
    if limit >= vcpus:
        advice = f"aws ec2 describe-instances{_in(facts)} (to see what runs)"
        return warning(f"{words} by this account's other instances", advice)
    asked = _asked_for(facts, request)
    advice = increase_command(quota, vcpus, facts.settings.region)
    if asked >= vcpus:
        command = "aws service-quotas list-requested-service-quota-change-history-by-quota"
        advice = f"{command} --service-code ec2 --quota-code {quota.code}{_in(facts)} (wait for it)"
        words += f"; {asked} are asked for"
    if quota.market not in ladder_markets(facts.settings):
        return warning(f"{words}; only for market: {quota.market}", advice)
    if not need.first:
        return warning(f"{words}; only for a fallback", advice)
    return error(words, advice)


def _limit(facts: Facts, request: Mapping[str, str]) -> int:
    """A quota's vCPUs. Of one that the account was never given, Service Quotas knows the default alone."""
    try:
        answer = facts.ask("service-quotas", "get_service_quota", **request)
    except ApiError as refusal:
        if refusal.code != "NoSuchResourceException":
            raise
        answer = facts.ask("service-quotas", "get_aws_default_service_quota", **request)
    return int(answer["Quota"]["Value"])


def _in(facts: Facts) -> str:
    return f" --region {facts.settings.region}"


def _asked_for(facts: Facts, request: Mapping[str, str]) -> int:
    """The vCPUs of the highest request that AWS has not decided on."""
    operation = "list_requested_service_quota_change_history_by_quota"
    try:
        history = facts.pages("service-quotas", operation, "RequestedQuotas", **request)
    except ApiError:
        return 0  # not everybody may look; the advice is then to ask
    return max((int(one["DesiredValue"]) for one in history if one["Status"] in _OPEN), default=0)


def _in_use(facts: Facts, quota: Quota) -> int:
    """The vCPUs of the account's instances that count against a quota, whoever started them."""

    def look() -> list[Mapping[str, Any]]:
        wanted = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        groups = facts.pages("ec2", "describe_instances", "Reservations", Filters=wanted)
        return [instance for group in groups for instance in group["Instances"]]

    return sum(
        int(cpus.get("CoreCount", 0)) * int(cpus.get("ThreadsPerCore", 1))
        for instance in facts.shared("quota", "instances in use", look)
        if quota_of(instance["InstanceType"], _market_of(instance)) == quota
        and (cpus := instance.get("CpuOptions", {}))
    )


def _market_of(instance: Mapping[str, Any]) -> Market:
    return "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
