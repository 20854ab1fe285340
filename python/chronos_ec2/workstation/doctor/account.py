"""Who calls AWS, where, and whether the clocks agree."""

from __future__ import annotations

from chronos_ec2.errors import LocalCloudDown, NoCredentials
from chronos_ec2.words import span_text
from chronos_ec2.workstation.doctor.answers import ApiError, NotKnown
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning

# Signature version 4 is refused when its time is more than five minutes off.
SKEW_LIMIT_SECONDS = 300
SKEW_WARNING_SECONDS = 30
SET_CLOCK = "sudo timedatectl set-ntp true (macOS: sudo sntp -sS time.apple.com)"


def credentials(facts: Facts) -> list[Finding]:
    """Whether AWS knows the caller."""
    try:
        arn = facts.identity()
    except NotKnown as problem:
        return [_without_credentials(facts, problem.cause)]
    if arn.endswith(":root"):
        return [
            warning(
                f"{arn}: the account's root user, whom no policy can restrain",
                "aws configure (keys of an IAM user; AWS CLI version 2 also has aws configure sso)",
            )
        ]
    return [ok(arn)]


def _without_credentials(facts: Facts, cause: Exception) -> Finding:
    profile = facts.settings.aws_profile
    text = str(cause).split(": start it with")[0].split("; start it with")[0]
    if isinstance(cause, LocalCloudDown):
        return error(text, "invoke local.start")
    if isinstance(cause, NoCredentials):
        named = f" --profile {profile}" if profile else ""
        advice = f"aws configure{named} (AWS CLI version 2 also has aws login{named}, aws sso login{named})"
        if "InvalidClientTokenId" in text:  # also what a region says that the account has not enabled
            region = facts.settings.region
            advice += f"; or aws account enable-region --region-name {region}, should {region} not be enabled"
        return error(text, advice)
    return error(text, f"look at the network, and at region ({facts.settings.region}) in invoke.yaml")


def clock(facts: Facts) -> list[Finding]:
    """This machine's clock against AWS's."""
    skew = facts.greeting().skew_seconds
    if skew is None:
        facts.identity()  # no answer, so no credentials: said there
        return [warning("AWS's answer has no date to compare with", "date -u (look at it)")]
    words = f"{span_text(abs(skew))} {'behind' if skew > 0 else 'ahead of'} AWS's"
    if abs(skew) >= SKEW_LIMIT_SECONDS:
        return [error(f"this machine's clock is {words}; AWS refuses signatures 5 min off", SET_CLOCK)]
    if abs(skew) >= SKEW_WARNING_SECONDS:
        return [warning(f"this machine's clock is {words}; deadlines are off by as much", SET_CLOCK)]
    return [ok("this machine's clock agrees with AWS's")]


def region(facts: Facts) -> list[Finding]:
    """Whether the account may use the region."""
    name = facts.settings.region
    try:
        found = facts.ask("ec2", "describe_regions", RegionNames=[name], AllRegions=True)["Regions"]
    except ApiError as refusal:
        if refusal.denied:
            raise
        return [error(f"{name}: {refusal.message}", "set region in invoke.yaml")]
    if found and found[0].get("OptInStatus") == "not-opted-in":
        return [
            error(
                f"{name} is not enabled for this account", f"aws account enable-region --region-name {name}"
            )
        ]
    return [ok(name)]
