"""A call of an AWS API, as far as its permissions go, and what is asked of the account about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chronos_ec2.local_cloud.access.policy import Question

# What the service authorization reference calls a service, where that is not what its clients are called.
_PREFIXES = {"service-quotas": "servicequotas"}
Context = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, already parsed.

    Attributes:
        service: as boto3 names it: "service-quotas".
        operation: "RunInstances".
        parameters: as boto3 takes them.
        partition, region, account: where it is made.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    partition: str = "aws"
    region: str = "us-east-1"
    account: str = "123456789012"

    def ask(
        self, resource: str = "*", context: Context | None = None, *, action: str | None = None
    ) -> Question:
        """The question whether the call's own action, or another one, is allowed on a resource."""
        own = f"{_PREFIXES.get(self.service, self.service)}:{self.operation}"
        everywhere = {"aws:requestedregion": (self.region,), "aws:securetransport": ("true",)}
        return Question(action or own, resource, {**everywhere, **(context or {})})

    def arn(
        self,
        resource: str,
        *,
        service: str | None = None,
        region: str | None = None,
        account: str | None = None,
    ) -> str:
        """The ARN of a resource in the call's own region and account, unless others are given."""
        where = self.region if region is None else region
        whose = self.account if account is None else account
        return f"arn:{self.partition}:{service or self.service}:{where}:{whose}:{resource}"


class Account(Protocol):
    """What the needs of a call depend on and its parameters do not say."""

    def context_of(self, resource_id: str) -> Context:
        """The condition keys of a resource of EC2, its tags above all; nothing for one that is not there."""

    def role_in_profile(self, profile: str) -> str:
        """The ARN of the role in an instance profile, by the profile's name or ARN; "*" where none is."""


def tag_context(prefix: str, tags: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Condition keys for tags: prefix "aws:RequestTag" gives aws:requesttag/project and so on."""
    return {f"{prefix}/{key}".lower(): (value,) for key, value in tags.items()}
