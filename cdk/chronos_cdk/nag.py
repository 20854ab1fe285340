"""Findings of cdk-nag that are meant to be so, each with its reason, written where the construct is made."""

from __future__ import annotations

from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import IConstruct


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Say why a construct does not follow a rule of the AwsSolutions pack.

    Args:
        construct: the construct, or one above it.
        rule: the rule without the pack's name: "VPC7".
        reason: for whoever reviews the stack.
    """
    Validations.of(construct).acknowledge(
        Acknowledgment(id=f"AwsSolutions::AwsSolutions-{rule}", reason=reason)
    )


def acknowledge_wildcard(construct: IConstruct, resource: str, reason: str) -> None:
    """Say why a policy names a resource with a wildcard: this one, and no other that may come."""
    resolved = Stack.of(construct).resolve(resource)
    acknowledge(construct, f"IAM5[Resource::{_as_cdk_nag_writes(resolved)}]", reason)


def _as_cdk_nag_writes(resolved: Any) -> str:
    """A resource with its references in angle brackets: `<Bucket.Arn>/logs/*`."""
    if isinstance(resolved, str):
        return resolved
    if "Ref" in resolved:
        return f"<{resolved['Ref']}>"
    if "Fn::GetAtt" in resolved:
        return f"<{'.'.join(resolved['Fn::GetAtt'])}>"
    separator, parts = resolved["Fn::Join"]
    return str(separator).join(_as_cdk_nag_writes(part) for part in parts)
