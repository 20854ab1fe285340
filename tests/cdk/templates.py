"""Templates of the stack, and ways to ask them."""

from __future__ import annotations

import tempfile
from typing import Any

Template = dict[str, Any]
# Every setting other than its default, and everything that is optional.
EVERYTHING: dict[str, Any] = {
    "environments": ("local", "team-a"),
    "availability_zones": 3,
    "log_retention_days": 7,
    "glacier_after_days": 30,
    "notify_email": "me@example.com",
    "alarm_hours": 6,
    "instance_types": ("g4dn.2xlarge", "g5.2xlarge"),
    "nodes": 2,
}


def synthesize(**settings: Any) -> Template:
    """Return the template that these settings give."""
    import aws_cdk as cdk
    from aws_cdk.assertions import Template as Assertions

    from chronos_cdk.settings import StackSettings
    from chronos_cdk.stack import ChronosTrainingStack

    with tempfile.TemporaryDirectory(prefix="cdk-") as out:
        app = cdk.App(analytics_reporting=False, outdir=out)
        stack = ChronosTrainingStack(app, "ChronosTraining", settings=StackSettings(**settings))
        return dict(Assertions.from_stack(stack).to_json())


def of_type(template: Template, kind: str) -> list[dict[str, Any]]:
    """The resources of one kind."""
    return [resource for resource in template["Resources"].values() if resource["Type"] == kind]


def only(template: Template, kind: str) -> dict[str, Any]:
    """The one resource of a kind."""
    (resource,) = of_type(template, kind)
    return resource


def named(template: Template, part: str, kind: str) -> dict[str, Any]:
    """The one resource of a kind that a construct made: its logical id begins with the construct's name."""
    resources = template["Resources"].items()
    (found,) = (found for name, found in resources if name.startswith(part) and found["Type"] == kind)
    return found


def exports(template: Template) -> dict[str, Any]:
    """The values that the stack exports, by name without the prefix."""
    outputs = [output for output in template["Outputs"].values() if "Export" in output]
    return {output["Export"]["Name"].removeprefix("ChronosTraining-"): output["Value"] for output in outputs}


def flat(value: Any) -> str:
    """Write a policy's resource as one string, `<bucket>` standing for the bucket's ARN."""
    if isinstance(value, str):
        return value
    if "Fn::GetAtt" in value:
        return "<bucket>" if "Bucket" in value["Fn::GetAtt"][0] else f"<{value['Fn::GetAtt'][0]}>"
    if "Ref" in value:
        return f"<{value['Ref']}>"
    separator, parts = value["Fn::Join"]
    return str(separator).join(flat(part) for part in parts)


def listed(value: Any) -> list[Any]:
    """A policy's element as a list: where there is one member, a policy may hold it bare."""
    return value if isinstance(value, list) else [value]


def statements(role: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The statements of a role's one inline policy, by Sid."""
    (policy,) = role["Properties"]["Policies"]
    return {
        statement["Sid"]: {
            "actions": set(listed(statement["Action"])),
            "resources": {flat(resource) for resource in listed(statement["Resource"])},
            "condition": statement.get("Condition"),
            "effect": statement["Effect"],
        }
        for statement in policy["PolicyDocument"]["Statement"]
    }
