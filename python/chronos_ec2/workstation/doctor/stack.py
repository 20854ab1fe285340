"""The stack: exports, instance profile, the switch outside the machine, the topic."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from chronos_ec2.workstation.doctor.answers import ApiError
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning


def deploy_command(facts: Facts) -> str:
    """The command that makes the stack what this checkout says."""
    return f"invoke deploy --env {facts.settings.environment}"


def exports(facts: Facts) -> list[Finding]:
    """Everything that a launch reads from CloudFormation."""
    found = facts.exports()
    missing = [name for name in facts.wanted_exports if name not in found]
    if not found:
        return [error(f"the stack is not deployed in {facts.settings.region}", deploy_command(facts))]
    if missing:
        return [
            error(f"the stack is older than this checkout: no {', '.join(missing)}", deploy_command(facts))
        ]
    return [ok(f"all {len(facts.wanted_exports)} of them")]


def instance_profile(facts: Facts) -> list[Finding]:
    """Whether instances get a role, and whether that may write this environment's results."""
    name, environment = facts.export("InstanceProfileName"), facts.settings.environment
    try:
        profile = facts.ask("iam", "get_instance_profile", InstanceProfileName=name)["InstanceProfile"]
    except ApiError as refusal:
        if refusal.code != "NoSuchEntity":
            raise
        return [error(f"instance profile {name} does not exist", anew_command(facts))]
    if not profile["Roles"]:
        return [error(f"instance profile {name} has no role in it", anew_command(facts))]
    role = profile["Roles"][0]["RoleName"]
    if not _may_write(facts, role, f"{facts.bucket}/{environment}/x/run.json"):
        return [
            error(
                f"role {role} may not write s3://{facts.bucket}/{environment}/; the environment is newer "
                f"than the stack",
                deploy_command(facts),
            )
        ]
    return [ok(f"{name} with role {role}, which may write {environment}/")]


def anew_command(facts: Facts) -> str:
    """The command that makes the stack anew, for what somebody deleted or changed by hand.

    CloudFormation does not look: to it, a stack whose template is unchanged is as it was.
    """
    env = f"--env {facts.settings.environment}"
    return f"invoke destroy {env} && {deploy_command(facts)} && invoke upload {env} --data DIR"


def _may_write(facts: Facts, role: str, key: str) -> bool:
    """Whether a role's inline policies let it put an object, `bucket/key`."""
    return any(
        statement.get("Effect") == "Allow"
        and any(fnmatch.fnmatchcase("s3:PutObject", action) for action in _listed(statement, "Action"))
        # From the bucket's name on: ARNs have another partition in China and GovCloud.
        and any(
            fnmatch.fnmatchcase(key, resource.rpartition(":::")[2])
            for resource in _listed(statement, "Resource")
        )
        for statement in _statements(facts, role)
    )


def _statements(facts: Facts, role: str) -> Iterator[Mapping[str, Any]]:
    for name in facts.ask("iam", "list_role_policies", RoleName=role)["PolicyNames"]:
        document = facts.ask("iam", "get_role_policy", RoleName=role, PolicyName=name)["PolicyDocument"]
        if isinstance(document, str):
            document = json.loads(unquote(document))
        found = document["Statement"]
        yield from found if isinstance(found, list) else [found]


def _listed(statement: Mapping[str, Any], key: str) -> list[str]:
    value = statement.get(key, [])
    return [value] if isinstance(value, str) else list(value)


def outside_switch(facts: Facts) -> list[Finding]:
    """EventBridge Scheduler, which ends an instance after its deadline."""
    if not facts.settings.outside_switch:
        return [
            warning(
                "outside_switch is off: only the instance itself and invoke reap end a run that is late",
                "set outside_switch: true in invoke.yaml",
            )
        ]
    group, role = facts.export("ScheduleGroupName"), facts.export("SchedulerRoleArn").rpartition("/")[2]
    try:
        state = facts.ask("scheduler", "get_schedule_group", Name=group)["State"]
        facts.ask("iam", "get_role", RoleName=role)
    except ApiError as refusal:
        if refusal.code not in ("ResourceNotFoundException", "NoSuchEntity"):
            raise
        return [error(f"gone from the stack: {refusal.message}", anew_command(facts))]
    if state != "ACTIVE":
        return [error(f"schedule group {group} is {state}", anew_command(facts))]
    return [ok(f"schedule group {group}")]


def notices(facts: Facts) -> list[Finding]:
    """The topic that is told of starts and ends, and who listens."""
    topic, address = facts.export("TopicArn"), facts.settings.notify_email
    try:
        attributes = facts.ask("sns", "get_topic_attributes", TopicArn=topic)["Attributes"]
    except ApiError as refusal:
        if refusal.code not in ("NotFound", "NotFoundException"):
            raise
        return [error(f"topic {topic} does not exist", anew_command(facts))]
    confirmed, pending = (int(attributes.get(f"Subscriptions{word}", 0)) for word in ("Confirmed", "Pending"))
    name = topic.rpartition(":")[2]
    if pending:
        return [
            warning(
                f"{pending} of {pending + confirmed} subscriptions of topic {name} wait to be confirmed",
                "open the link in the mail from AWS Notifications",
            )
        ]
    if address and not confirmed:
        return [warning(f"nobody listens to topic {name}, not even {address}", deploy_command(facts))]
    return [ok(f"topic {name}, {confirmed} listening")]
