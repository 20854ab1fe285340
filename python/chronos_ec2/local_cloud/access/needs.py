"""Which permissions a call needs, S3's apart.

What is not listed here is asked for on "*", as for the many actions that know no resources. A policy that
names resources for such an action then refuses it, which is the safe way to be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from chronos_ec2.local_cloud.access.call import Account, Call, tag_context
from chronos_ec2.local_cloud.access.policy import Question

# EC2's actions on things that are there already: what kind they are, and which parameter names them.
_BY_ID: Final = {
    **dict.fromkeys(
        ("TerminateInstances", "StopInstances", "StartInstances", "RebootInstances"),
        ("instance", "InstanceIds"),
    ),
    **dict.fromkeys(
        ("GetConsoleOutput", "ModifyInstanceAttribute", "ModifyInstanceMetadataOptions"),
        ("instance", "InstanceId"),
    ),
    "DeleteVolume": ("volume", "VolumeId"),
    "CancelSpotInstanceRequests": ("spot-instances-request", "SpotInstanceRequestIds"),
}
_SCHEDULE: Final = ("CreateSchedule", "GetSchedule", "UpdateSchedule", "DeleteSchedule")
_TOPIC: Final = (
    "Publish",
    "GetTopicAttributes",
    "SetTopicAttributes",
    "ListSubscriptionsByTopic",
    "Subscribe",
)
_ROLE: Final = ("GetRole", "GetRolePolicy", "ListRolePolicies", "PutRolePolicy", "DeleteRolePolicy")

_QUOTA: Final = (
    "GetServiceQuota",
    "RequestServiceQuotaIncrease",
    "ListRequestedServiceQuotaChangeHistoryByQuota",
)


def needs(call: Call, account: Account) -> list[Question]:
    """Everything that must be allowed for the call to be made."""
    if call.service == "sts" and call.operation == "GetCallerIdentity":
        return []  # always allowed, even where a policy denies it
    find = _RESOURCES.get((call.service, call.operation))
    if find is not None:
        return [call.ask(resource) for resource in find(call)] + _passed_roles(call, account)
    if call.service == "ec2":
        return _ec2(call, account)
    return [call.ask()]


def _ec2(call: Call, account: Account) -> list[Question]:
    if call.operation == "RunInstances":
        return [*_run_instances(call), *_tags_at_launch(call), *_passed_roles(call, account)]
    if call.operation in ("CreateTags", "DeleteTags"):
        given = tag_context("aws:RequestTag", _tags(call.parameters.get("Tags", [])))
        return [call.ask(call.arn(f"*/{one}"), given) for one in call.parameters["Resources"]]
    if call.operation not in _BY_ID:
        return [call.ask()]
    kind, parameter = _BY_ID[call.operation]
    named = call.parameters[parameter]
    ids = named if isinstance(named, list) else [named]
    return [call.ask(call.arn(f"{kind}/{one}"), account.context_of(one)) for one in ids]


def _run_instances(call: Call) -> list[Question]:
    """EC2 asks for every resource that a launch makes or uses."""
    asked = call.parameters
    cards = asked.get("NetworkInterfaces") or [asked]
    options, market = asked.get("MetadataOptions", {}), asked.get("InstanceMarketOptions", {})
    instance: dict[str, tuple[str, ...]] = {
        "ec2:instancetype": (str(asked.get("InstanceType", "")),),
        "ec2:metadatahttptokens": (str(options.get("HttpTokens", "optional")),),
        "ec2:instancemarkettype": (str(market.get("MarketType", "on-demand")),),
        **({"ec2:instanceprofile": (_profile_arn(call),)} if "IamInstanceProfile" in asked else {}),
    }
    made: dict[str, dict[str, tuple[str, ...]]] = {
        "instance": instance,
        "network-interface": {},
        "volume": _disk_context(asked),
    }
    used = [
        call.arn(f"image/{asked['ImageId']}", account=""),
        *(call.arn(f"subnet/{card['SubnetId']}") for card in cards if card.get("SubnetId")),
        *(
            call.arn(f"security-group/{group}")
            for card in cards
            for group in card.get("Groups") or card.get("SecurityGroupIds") or []
        ),
    ]
    if any(one.get("ResourceType") == "spot-instances-request" for one in asked.get("TagSpecifications", [])):
        used.append(call.arn("spot-instances-request/*"))
    if group := asked.get("Placement", {}).get("GroupName"):
        used.append(call.arn(f"placement-group/{group}"))
    return [
        *(call.ask(call.arn(f"{kind}/*"), {**own, **_launch_tags(call, kind)}) for kind, own in made.items()),
        *(call.ask(resource) for resource in used),
    ]


def _disk_context(asked: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    disks = [disk.get("Ebs", {}) for disk in asked.get("BlockDeviceMappings", [])]
    encrypted = bool(disks) and all(disk.get("Encrypted") for disk in disks)
    return {"ec2:encrypted": (str(encrypted).lower(),)}


def _launch_tags(call: Call, kind: str) -> dict[str, tuple[str, ...]]:
    """The tags that a launch gives one kind of resource, as condition keys."""
    found: dict[str, str] = {}
    for one in call.parameters.get("TagSpecifications", []):
        if one["ResourceType"] == kind:
            found |= _tags(one["Tags"])
    return tag_context("aws:RequestTag", found) | ({"aws:tagkeys": tuple(found)} if found else {})


def _tags_at_launch(call: Call) -> list[Question]:
    """To tag what a call makes needs CreateTags, for this call."""
    kinds = {one["ResourceType"] for one in call.parameters.get("TagSpecifications", [])}
    return [
        call.ask(
            call.arn(f"{kind}/*"),
            {**_launch_tags(call, kind), "ec2:createaction": (call.operation,)},
            action="ec2:CreateTags",
        )
        for kind in sorted(kinds)
    ]


def _passed_roles(call: Call, account: Account) -> list[Question]:
    """Who hands a role to a service needs leave for that role and that service."""
    if call.service == "scheduler" and "Target" in call.parameters:
        role, service = call.parameters["Target"]["RoleArn"], "scheduler.amazonaws.com"
    elif call.service == "ec2" and "IamInstanceProfile" in call.parameters:
        profile = call.parameters["IamInstanceProfile"]
        role, service = account.role_in_profile(profile.get("Name") or profile["Arn"]), "ec2.amazonaws.com"
    else:
        return []
    return [call.ask(role, {"iam:passedtoservice": (service,)}, action="iam:PassRole")]


def _profile_arn(call: Call) -> str:
    profile = call.parameters["IamInstanceProfile"]
    named = call.arn(f"instance-profile/{profile.get('Name')}", service="iam", region="")
    return str(profile.get("Arn") or named)


def _tags(pairs: list[Mapping[str, str]]) -> dict[str, str]:
    return {pair["Key"]: pair.get("Value", "") for pair in pairs}


def _schedule(call: Call) -> list[str]:
    group = call.parameters.get("GroupName") or "default"
    return [call.arn(f"schedule/{group}/{call.parameters['Name']}")]


def _parameter(call: Call) -> list[str]:
    name = str(call.parameters["Name"]).lstrip("/")
    # AWS's own public parameters belong to no account.
    return [call.arn(f"parameter/{name}", account="" if name.startswith("aws/") else None)]


def _quota(call: Call) -> list[str]:
    resource = f"{call.parameters['ServiceCode']}/{call.parameters['QuotaCode']}"
    return [call.arn(resource, service="servicequotas")]


def _profile(call: Call) -> list[str]:
    return [call.arn(f"instance-profile/{call.parameters['InstanceProfileName']}", service="iam", region="")]


_RESOURCES: Final[dict[tuple[str, str], Callable[[Call], list[str]]]] = {
    **{("scheduler", name): _schedule for name in _SCHEDULE},
    ("scheduler", "GetScheduleGroup"): lambda call: [call.arn(f"schedule-group/{call.parameters['Name']}")],
    **{("sns", name): lambda call: [str(call.parameters["TopicArn"])] for name in _TOPIC},
    **{
        ("iam", name): lambda call: [call.arn(f"role/{call.parameters['RoleName']}", region="")]
        for name in _ROLE
    },
    ("iam", "GetInstanceProfile"): _profile,
    ("ssm", "GetParameter"): _parameter,
    **{("service-quotas", name): _quota for name in _QUOTA},
    ("sts", "AssumeRole"): lambda call: [str(call.parameters["RoleArn"])],
    ("cloudformation", "DescribeStacks"): lambda call: [
        call.arn(f"stack/{call.parameters.get('StackName', '*')}/*")
    ],
}
