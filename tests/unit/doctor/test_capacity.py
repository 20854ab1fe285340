"""What a launch asks EC2 for: types, zones, quotas, the image, and leave to start it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from chronos_ec2.workstation.doctor.findings import Level
from chronos_ec2.workstation.doctor.tools import Printed
from chronos_ec2.workstation.quotas import QUOTAS, quota_of
from chronos_ec2.workstation.settings import REPOSITORY

from .case import Case, as_is, verify
from .fake_aws import operations, refusal
from .world import ARN, TYPES, World, image, machine_type

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
SET_TYPE = "set instance_type for dev in invoke.yaml"
SET_FALLBACK = "set fallback_instance_types for dev in invoke.yaml"
SET_AMI = "set ami_id for dev in invoke.yaml"
REHEARSAL = "launch permission"


def settings(**changes: Any) -> Callable[[World], object]:
    return lambda world: world.set(**changes)


def unknown_type(world: World) -> None:
    text = "The following supplied instance types do not exist: [g9.2xlarge]"
    world.plan["ec2", "describe_instance_types"] = refusal("InvalidInstanceType", text)


def offered(*zones: str) -> Callable[[World], object]:
    offers = [{"InstanceType": "g4dn.2xlarge", "Location": zone} for zone in zones]
    return lambda world: world.plan.update(
        {("ec2", "describe_instance_type_offerings"): {"InstanceTypeOfferings": offers}}
    )


def limits(by_code: dict[str, float], **changes: Any) -> Callable[[World], object]:
    """The account's quotas, 8 vCPU where nothing is said."""

    def arrange(world: World) -> None:
        world.set(**changes)
        world.plan["service-quotas", "get_service_quota"] = lambda ServiceCode, QuotaCode: {
            "Quota": {"Value": by_code.get(QuotaCode, 8.0)}
        }

    return arrange


def never_applied(world: World) -> None:
    """What Service Quotas says of a quota that this account was never given: only the default is known."""
    world.plan["service-quotas", "get_service_quota"] = refusal("NoSuchResourceException")
    world.plan["service-quotas", "get_aws_default_service_quota"] = {"Quota": {"Value": 0.0}}


def asked(status: str, value: float) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        limits({"L-DB2E81BA": 0.0})(world)
        requests = [{"Status": status, "DesiredValue": value}, {"Status": "DENIED", "DesiredValue": 999.0}]
        operation = "list_requested_service_quota_change_history_by_quota"
        world.plan["service-quotas", operation] = {"RequestedQuotas": requests}

    return arrange


def busy(world: World) -> None:
    world.instance(InstanceType="g5.xlarge", CpuOptions={"CoreCount": 2, "ThreadsPerCore": 2})


def busy_with_others(world: World) -> None:
    """A spot instance of the family and one of another family: neither counts on demand."""
    world.instance(InstanceLifecycle="spot")
    groups = world.plan["ec2", "describe_instances"]["Reservations"]
    groups.append({"Instances": [{"InstanceType": "c5.4xlarge", "CpuOptions": {"CoreCount": 8}}]})


def images(*found: dict[str, Any]) -> Callable[[World], object]:
    return lambda world: world.plan.update({("ec2", "describe_images"): {"Images": list(found)}})


def no_image(world: World) -> None:
    world.plan["ssm", "get_parameter"] = refusal("ParameterNotFound")
    images()(world)


def ami_of_another_region(world: World) -> None:
    world.set(ami_id="ami-0abc")
    world.plan["ec2", "describe_images"] = refusal("InvalidAMIID.NotFound")


def says(code: str, message: str, market: str = "on-demand", tried: str = "") -> Callable[[World], object]:
    """What the AWS CLI prints of a refusal."""
    text = f"\nAn error occurred ({code}) when calling the RunInstances operation{tried}: {message}\n"

    def arrange(world: World) -> None:
        world.set(market=market)
        world.programs["aws ec2"] = Printed(254, "", text)

    return arrange


def no_answer(world: World) -> None:
    world.programs["aws ec2"] = Printed(255, "", "Could not connect to the endpoint URL")


def increase(code: str, vcpus: int) -> str:
    return (
        "aws service-quotas request-service-quota-increase --service-code ec2 "
        f"--quota-code {code} --desired-value {vcpus} --region us-east-1"
    )


PASS_ROLE = (
    f"You are not authorized to perform this operation. User: {ARN} is not authorized to perform: "
    "iam:PassRole on resource: arn:aws:iam::123456789012:role/TheRole because no identity-based policy "
    "allows the iam:PassRole action. Encoded authorization failure message: aBc-123"
)
ENCODED = "You are not authorized to perform this operation. Encoded authorization failure message: aBc-123"
ON_ROLE = "iam:PassRole on arn:aws:iam::123456789012:role/TheRole"
# What a launch advises after a refusal, the rehearsal of one advises as well.
OF_LAUNCH = json.loads((REPOSITORY / "shell" / "lib" / "launch_errors.json").read_text())
LOOK = "invoke launch --env dev --dry-run (to see the call)"
CASES = [
    Case(
        "instance type",
        "with a GPU of today",
        settings(instance_type="g5.2xlarge"),
        OK,
        "1 x A10G with 16 GiB",
    ),
    Case("instance type", "T4, built-in trainer", as_is, OK, "our trainers compute in fp32 there"),
    Case(
        "instance type",
        "T4, own trainer",
        settings(trainer="command", command=("train",)),
        WARNING,
        "T4 has neither bf16 nor tf32: torch falls back",
        "invoke launch --set instance_type=g5.2xlarge (or ask your trainer for fp16)",
    ),
    Case("instance type", "that does not exist", unknown_type, ERROR, "do not exist: [g9.2xlarge]", SET_TYPE),
    Case(
        "instance type",
        "ARM among the fallbacks",
        settings(fallback_instance_types=("g5g.xlarge",)),
        ERROR,
        "g5g.xlarge is no x86_64",
        SET_FALLBACK,
        line=1,
    ),
    Case(
        "instance type",
        "without a GPU",
        settings(instance_type="t3.medium"),
        ERROR,
        "t3.medium has no NVIDIA GPU, and accelerator is cuda",
        SET_TYPE,
    ),
    Case(
        "instance type", "CPU for CPU", settings(instance_type="t3.medium", accelerator="cpu"), OK, "2 vCPU"
    ),
    Case(
        "instance type",
        "GPU in vain",
        settings(accelerator="cpu"),
        WARNING,
        "g4dn.2xlarge has a GPU that a run with accelerator: cpu pays for in vain",
        SET_TYPE,
    ),
    Case(
        "instance type",
        "never sold as spot",
        settings(instance_type="mac2.metal", market="spot"),
        ERROR,
        "mac2.metal is not sold as spot",
        SET_TYPE,
    ),
    Case("zones", "all", as_is, OK, "g4dn.2xlarge in us-east-1b, us-east-1a (2 of the stack's 2 zones)"),
    Case("zones", "one of two", offered("us-east-1a"), OK, "in us-east-1a (1 of the stack's 2 zones)"),
    Case(
        "zones",
        "only others",
        offered("us-east-1f", "us-east-1d"),
        ERROR,
        "not offered in us-east-1b, us-east-1a, only in us-east-1d, us-east-1f",
        "CHRONOS_AVAILABILITY_ZONES=4 invoke deploy --env dev (and set it in invoke.yaml)",
    ),
    Case(
        "zones",
        "only one behind letters that are missing",
        offered("us-east-1f"),
        ERROR,
        "only in us-east-1f",
        "CHRONOS_AVAILABILITY_ZONES=5 invoke deploy --env dev (and set it in invoke.yaml)",
    ),
    Case("zones", "a local zone", offered("us-east-1-bos-1a"), ERROR, "in us-east-1-bos-1a alone", SET_TYPE),
    Case("zones", "not in the region", offered(), ERROR, "is not offered in us-east-1", SET_TYPE),
    Case(
        "quota",
        "enough",
        as_is,
        OK,
        "Running On-Demand G and VT instances (L-DB2E81BA): 8 vCPU, 8 needed, 0 in use",
    ),
    Case("quota", "enough for spot", as_is, OK, "All G and VT Spot Instance Requests (L-3819A6DF)", line=1),
    Case(
        "quota",
        "of a new account",
        limits({"L-DB2E81BA": 0.0}),
        ERROR,
        "(L-DB2E81BA): 0 vCPU, 8 needed",
        increase("L-DB2E81BA", 8),
    ),
    Case(
        "quota",
        "of an account that never was given one",
        never_applied,
        ERROR,
        "(L-DB2E81BA): 0 vCPU, 8 needed",
        increase("L-DB2E81BA", 8),
    ),
    Case(
        "quota",
        "of a new account for spot that nobody asked for",
        limits({"L-3819A6DF": 0.0}),
        WARNING,
        "(L-3819A6DF): 0 vCPU, 8 needed, 0 in use; only for market: spot",
        increase("L-3819A6DF", 8),
        line=1,
    ),
    Case(
        "quota",
        "of a new account for spot",
        limits({"L-3819A6DF": 0.0}, market="spot-then-on-demand"),
        ERROR,
        "(L-3819A6DF): 0 vCPU",
        increase("L-3819A6DF", 8),
        line=1,
    ),
    Case(
        "quota",
        "of another family",
        limits({"L-417A185B": 0.0}, fallback_instance_types=("p4d.24xlarge",)),
        WARNING,
        "Running On-Demand P instances (L-417A185B): 0 vCPU, 96 needed, 0 in use; only for a fallback",
        increase("L-417A185B", 96),
        line=1,
    ),
    Case(
        "quota",
        "for the largest of a family",
        limits({}, fallback_instance_types=("g5.12xlarge",)),
        ERROR,
        "8 vCPU, 48 needed",
        increase("L-DB2E81BA", 48),
    ),
    Case(
        "quota",
        "in use",
        busy,
        WARNING,
        "8 vCPU, 8 needed, 4 in use by this account's other instances",
        "aws ec2 describe-instances --region us-east-1 (to see what runs)",
    ),
    Case("quota", "in use by what does not count", busy_with_others, OK, "8 needed, 0 in use"),
    Case(
        "quota",
        "asked for",
        asked("CASE_OPENED", 8.0),
        ERROR,
        "0 vCPU, 8 needed, 0 in use; 8 are asked for",
        "aws service-quotas list-requested-service-quota-change-history-by-quota --service-code ec2 "
        "--quota-code L-DB2E81BA --region us-east-1 (wait for it)",
    ),
    Case(
        "quota",
        "asked for and granted before",
        asked("APPROVED", 16.0),
        ERROR,
        "0 in use",
        increase("L-DB2E81BA", 8),
    ),
    Case(
        "quota", "asked for, too little", asked("PENDING", 4.0), ERROR, "0 in use", increase("L-DB2E81BA", 8)
    ),
    Case(
        "quota",
        "of a family that is not known",
        settings(instance_type="p6-b200.48xlarge"),
        WARNING,
        "no quota is known for p6-b200.48xlarge spot",
        "aws service-quotas list-service-quotas --service-code ec2 --region us-east-1 (look for it)",
        line=1,
    ),
    Case("image", "the newest", as_is, OK, "ami-1 Deep Learning Base OSS"),
    Case(
        "image",
        "whose driver is too new for the GPU",
        settings(instance_type="p3.2xlarge"),
        ERROR,
        "cannot drive p3.2xlarge: NVIDIA's open driver begins with Turing (T4)",
        SET_TYPE,
    ),
    Case("image", "none", no_image, ERROR, "neither SSM parameter /aws/service/deeplearning", SET_AMI),
    Case(
        "image",
        "of another region",
        ami_of_another_region,
        ERROR,
        "ami-0abc is not there in us-east-1",
        SET_AMI,
    ),
    Case("image", "pending", images(image(State="pending")), ERROR, "20261101 is pending", SET_AMI),
    Case("image", "for ARM", images(image(Architecture="arm64")), ERROR, "is for arm64, not x86_64", SET_AMI),
    Case(
        "image",
        "without a disk",
        images(image(RootDeviceType="instance-store")),
        ERROR,
        "has no EBS root device",
        SET_AMI,
    ),
    Case(
        "image",
        "deprecated",
        images(image(DeprecationTime="2026-01-02T00:00:00.000Z")),
        WARNING,
        "is deprecated since 2026-01-02",
        SET_AMI,
    ),
    Case(REHEARSAL, "given", as_is, OK, "EC2 would start g4dn.2xlarge on-demand, with its role and tags"),
    Case(
        REHEARSAL,
        "given in the second market",
        settings(market="spot-then-on-demand"),
        OK,
        "EC2 would start g4dn.2xlarge on-demand",
        line=1,
    ),
    Case(
        REHEARSAL,
        "lacking PassRole",
        says("UnauthorizedOperation", PASS_ROLE),
        ERROR,
        f"{ARN} may not {ON_ROLE}",
        f"allow {ON_ROLE} to {ARN} (an IAM policy)",
    ),
    Case(
        REHEARSAL,
        "lacking what EC2 does not name",
        says("UnauthorizedOperation", ENCODED),
        ERROR,
        "may not start g4dn.2xlarge on-demand: You are not authorized",
        "aws sts decode-authorization-message --encoded-message aBc-123",
    ),
    Case(
        REHEARSAL,
        "lacking something, without a word on what",
        says("UnauthorizedOperation", "no"),
        ERROR,
        "EC2 would refuse g4dn.2xlarge on-demand: UnauthorizedOperation: no",
        OF_LAUNCH["kinds"]["permission"]["advice"],
    ),
    Case(
        REHEARSAL,
        "of an account that is too new",
        says("PendingVerification", "Your request is being validated"),
        ERROR,
        "EC2 would refuse g4dn.2xlarge on-demand: PendingVerification: Your request is being validated",
        OF_LAUNCH["errors"]["PendingVerification"]["advice"],
    ),
    Case(
        REHEARSAL,
        "without capacity just now",
        says("InsufficientInstanceCapacity", "none left", "spot", " (reached max retries: 4)"),
        WARNING,
        "EC2 would refuse g4dn.2xlarge spot: InsufficientInstanceCapacity: none left",
        LOOK,
    ),
    Case(
        REHEARSAL,
        "refused for a new reason",
        says("Whatever", "no"),
        ERROR,
        "Whatever: no",
        OF_LAUNCH["kinds"]["other"]["advice"],
    ),
    Case(
        REHEARSAL,
        "without an answer",
        no_answer,
        ERROR,
        "no answer: Could not connect to the endpoint URL",
        OF_LAUNCH["kinds"]["other"]["advice"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_look_at_what_ec2_is_asked_for(case: Case) -> None:
    verify(case)


def test_the_newest_image_of_the_name_is_taken_when_the_parameter_is_missing() -> None:
    world = World()
    world.plan["ssm", "get_parameter"] = refusal("ParameterNotFound")
    images(
        image("ami-old", Name="Z", CreationDate="2026-01-01T00:00:00.000Z"),
        image("ami-new", Name="A", CreationDate="2026-09-01T00:00:00.000Z"),
    )(world)
    assert world.examine("image")[0].text == "ami-new A"
    asked_for = next(call[2] for call in world.aws.calls if call[1] == "describe_images")
    assert asked_for["Owners"] == ["amazon"]


def test_every_quota_of_the_settings_has_a_line_for_each_market() -> None:
    world = World()
    world.set(fallback_instance_types=("g5.2xlarge", "p4d.24xlarge"))
    limits(dict.fromkeys((quota.code for quota in QUOTAS), 1000.0))(world)
    codes = [re.findall(r"L-\w+", line.text) for line in world.examine("quota")]
    assert codes == [["L-DB2E81BA"], ["L-417A185B"], ["L-3819A6DF"], ["L-7212CCBC"]]


@pytest.mark.parametrize(
    ("name", "on_demand", "spot"),
    [
        ("g4dn.2xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("gr6.4xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("vt1.3xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("p3.2xlarge", "L-417A185B", "L-7212CCBC"),
        ("p5en.48xlarge", "L-417A185B", "L-C4BD4855"),
        ("t3.medium", "L-1216C47A", "L-34B43A08"),
        ("im4gn.large", "L-1216C47A", "L-34B43A08"),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("dl1.24xlarge", "L-6E869C2A", "L-85EED4F7"),
        ("x2idn.32xlarge", "L-7295265B", "L-E3A00192"),
        ("p6-b200.48xlarge", "L-417A185B", None),
        ("hpc7a.12xlarge", None, None),
        ("u7i-12tb.224xlarge", None, None),
    ],
)
def test_the_quota_of_an_instance_type(name: str, on_demand: str | None, spot: str | None) -> None:
    found = (quota_of(name, "on-demand"), quota_of(name, "spot"))
    assert tuple(quota.code if quota else None for quota in found) == (on_demand, spot)


def test_every_type_that_ec2_names_counts_against_a_quota_but_for_a_few_kinds() -> None:
    """Supercomputers, Macs and the largest memories have quotas of their own kind; the rest is retired."""
    names = operations("ec2")["run_instances"].input_shape.members["InstanceType"].enum
    assert len(names) > 900
    without = {re.match(r"[a-z]+", name)[0] for name in names if quota_of(name, "on-demand") is None}
    assert without - {"cc", "cg", "cr", "hi", "hs"} == {"hpc", "mac", "u"}


def rehearsed(world: World) -> list[str]:
    world.examine(REHEARSAL)
    return next(list(argv) for argv in world.commands if argv[:3] == ["aws", "ec2", "run-instances"])


def test_the_rehearsal_is_the_call_of_a_launch_and_dry() -> None:
    world = World()
    argv = rehearsed(world)
    assert argv[-1] == "--dry-run"
    given = dict(zip(argv[3:-1:2], argv[4:-1:2], strict=True))
    assert given["--image-id"] == "ami-1"
    assert given["--instance-type"] == "g4dn.2xlarge"
    assert given["--iam-instance-profile"] == "Name=TheProfile"
    assert json.loads(given["--network-interfaces"])[0]["SubnetId"] == "subnet-b"
    assert json.loads(given["--block-device-mappings"])[0]["DeviceName"] == "/dev/sda1"
    tags = {tag["Key"]: tag["Value"] for tag in json.loads(given["--tag-specifications"])[0]["Tags"]}
    assert (tags["Project"], tags["Environment"]) == ("Chronos-Training", "dev")
    assert "--instance-market-options" not in given


def test_the_rehearsal_of_a_spot_launch_asks_for_spot() -> None:
    world = World()
    world.set(market="spot")
    argv = rehearsed(world)
    assert json.loads(argv[argv.index("--instance-market-options") + 1])["MarketType"] == "spot"


def test_types_are_described_as_ec2_describes_them() -> None:
    assert set(TYPES["t3.medium"]) == set(machine_type("x", 1))
