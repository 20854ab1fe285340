"""Who makes a call: the account itself, a user, or a role that somebody has assumed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from moto.core.utils import utcnow
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends
from moto.utilities.utils import get_partition

from chronos_ec2.local_cloud.access.policy import Document, parsed

_CREDENTIAL: Final = re.compile(r"Credential=([^/,\s]+)/")
# What IAM itself hands out begins so. Anything else ("test") is the owner of the embedded AWS.
_ISSUED: Final = ("AKIA", "ASIA")


class UnknownCaller(Exception):
    """The access key is no one's, or its session is over."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose rights are limited.

    Attributes:
        arn: as AWS's refusals name them.
        policies: everything that is attached to them, together.
    """

    arn: str
    policies: tuple[Document, ...]


def caller_of(headers: Mapping[str, str], account_id: str, region: str) -> Caller | None:
    """Who signed a request; None for the account's owner, who may do anything.

    The signature itself is not checked, only whose key and session it names.

    Raises:
        UnknownCaller: the key looks like one of IAM's and is none, or the session token is another.
    """
    found = _CREDENTIAL.search(headers.get("Authorization", ""))
    key = found[1] if found else ""
    if not key.startswith(_ISSUED):
        return None
    partition = get_partition(region)
    iam = iam_backends[account_id][partition]
    for session in reversed(sts_backends[account_id][partition].assumed_roles):
        if session.access_key_id == key:
            token = headers.get("X-Amz-Security-Token")
            if token != session.session_token or session.expiration < utcnow():
                break
            role = role_of(session.role_arn, account_id, region)
            return Caller(session.arn, _policies(role) if role is not None else ())
    for user in iam.users.values():
        if any(one.access_key_id == key for one in user.access_keys):
            groups = iam.get_groups_for_user(user.name)
            return Caller(user.arn, sum((_policies(group) for group in groups), _policies(user)))
    raise UnknownCaller(key)


def role_of(arn: str, account_id: str, region: str) -> Any | None:
    """A role by its ARN; None when there is none, or none any more."""
    roles = iam_backends[account_id][get_partition(region)].get_roles()
    return next((role for role in roles if role.arn == arn), None)


def trusts(role: Any, arn: str, account_id: str) -> bool:
    """Whether a role's trust policy lets somebody of its account assume it; conditions are not looked at.

    Args:
        arn: of who wants to; the account's owner is "arn:aws:iam::ACCOUNT:root".
    """
    whole_account = {account_id, f"arn:{role.partition}:iam::{account_id}:root"}
    for statement in parsed(_text(role.assume_role_policy_document))["Statement"]:
        principal = statement.get("Principal", {})
        named = principal.get("AWS", []) if isinstance(principal, dict) else principal
        trusted = {named} if isinstance(named, str) else set(named)
        if statement["Effect"] == "Allow" and trusted & (whole_account | {arn, "*"}):
            return True
    return False


def _policies(identity: Any) -> tuple[Document, ...]:
    """The inline and the attached policies of a role, a user or a group."""
    texts = [_text(document) for document in dict(identity.policies).values()]
    for policy in identity.managed_policies.values():
        texts += [version.document for version in policy.versions if version.is_default]
    return tuple(parsed(text) for text in texts)


def _text(document: Any) -> str:
    return document if isinstance(document, str) else json.dumps(document)
