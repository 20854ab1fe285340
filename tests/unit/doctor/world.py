"""An account in which everything is well, for tests to break one thing of."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.doctor.checkup import Check, Report, checks, examine
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding
from chronos_ec2.workstation.doctor.tools import Machine, Printed, normal, run_program
from chronos_ec2.workstation.script_files import instance_scripts, report_scripts
from chronos_ec2.workstation.settings import REPOSITORY, Settings, load_settings

from .fake_aws import NOW, FakeAws, FakeS3

ARN = "arn:aws:iam::123456789012:user/ana"
ROLE_ARN = "arn:aws:iam::123456789012:role/SwitchRole"
TOPIC = "arn:aws:sns:us-east-1:123456789012:ChronosTraining"
BUCKET = "the-bucket"
RUN = "2026-11-23-180000"
INSTANCE = "i-0123456789abcdef0"
EXPORTS = {
    "BucketName": BUCKET,
    "SubnetIds": "subnet-b,subnet-a",
    "SecurityGroupId": "sg-1",
    "InstanceProfileName": "TheProfile",
    "VpcId": "vpc-1",
    "ScheduleGroupName": "ChronosTraining",
    "SchedulerRoleArn": ROLE_ARN,
    "TopicArn": TOPIC,
}
DRY_RUN = "An error occurred (DryRunOperation) when calling the RunInstances operation: It would have worked"


def machine_type(name: str, vcpus: int, gpu: str = "", **more: Any) -> dict[str, Any]:
    """An entry of DescribeInstanceTypes."""
    gpus = [{"Name": gpu, "Manufacturer": "NVIDIA", "Count": 1, "MemoryInfo": {"SizeInMiB": 16384}}]
    return {
        "InstanceType": name,
        "VCpuInfo": {"DefaultVCpus": vcpus},
        "MemoryInfo": {"SizeInMiB": 32768},
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "SupportedUsageClasses": ["on-demand", "spot"],
        **({"GpuInfo": {"Gpus": gpus}} if gpu else {}),
        **more,
    }


TYPES = {
    "g4dn.2xlarge": machine_type("g4dn.2xlarge", 8, "T4"),
    "g5.2xlarge": machine_type("g5.2xlarge", 8, "A10G"),
    "g5.12xlarge": machine_type("g5.12xlarge", 48, "A10G"),
    "p4d.24xlarge": machine_type("p4d.24xlarge", 96, "A100"),
    "p6-b200.48xlarge": machine_type("p6-b200.48xlarge", 192, "B200"),
    "p3.2xlarge": machine_type("p3.2xlarge", 8, "V100"),
    "t3.medium": machine_type("t3.medium", 2),
    "g5g.xlarge": machine_type("g5g.xlarge", 4, "T4g", ProcessorInfo={"SupportedArchitectures": ["arm64"]}),
    "mac2.metal": machine_type("mac2.metal", 8, "A10G", SupportedUsageClasses=["on-demand"]),
}


def subnet(name: str, zone: str, **more: Any) -> dict[str, Any]:
    return {"SubnetId": name, "AvailabilityZone": zone, "AvailableIpAddressCount": 4091, **more}


def route_table(name: str, *subnets: str, main: bool = False, out: bool = True) -> dict[str, Any]:
    routes = [{"DestinationCidrBlock": "10.20.0.0/16", "GatewayId": "local", "State": "active"}]
    way_out = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "State": "active"}
    return {
        "RouteTableId": name,
        "Routes": [*routes, *([way_out] if out else [])],
        "Associations": [*({"SubnetId": one} for one in subnets), *([{"Main": True}] if main else [])],
    }


def allow(action: str | list[str], resource: str | list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def image(ami: str = "ami-1", **more: Any) -> dict[str, Any]:
    return {
        "ImageId": ami,
        "Name": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20261101",
        "State": "available",
        "Architecture": "x86_64",
        "RootDeviceType": "ebs",
        "RootDeviceName": "/dev/sda1",
        "CreationDate": "2026-11-01T06:24:11.000Z",
        "DeprecationTime": "2028-11-01T06:24:11.000Z",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 50}}],
        **more,
    }


HTTPS = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def healthy_plan() -> dict[tuple[str, str], Any]:
    """What AWS answers when all is well; a test changes an entry."""
    offers = [{"InstanceType": name, "Location": f"us-east-1{zone}"} for name in TYPES for zone in "abc"]
    pages = {"ChronosTraining-" + name: value for name, value in EXPORTS.items()}
    return {
        ("sts", "get_caller_identity"): {
            "Arn": ARN,
            "ResponseMetadata": {"HTTPHeaders": {"date": f"{NOW:%a, %d %b %Y %H:%M:%S} GMT"}},
        },
        ("ec2", "describe_regions"): {"Regions": [{"OptInStatus": "opt-in-not-required"}]},
        ("cloudformation", "list_exports"): {
            "Exports": [{"Name": name, "Value": value} for name, value in pages.items()]
        },
        ("s3", "head_bucket"): {"BucketRegion": "us-east-1"},
        ("s3", "get_public_access_block"): {
            "PublicAccessBlockConfiguration": dict.fromkeys(
                ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
            )
        },
        ("s3", "get_bucket_encryption"): {
            "ServerSideEncryptionConfiguration": {
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            }
        },
        ("iam", "get_instance_profile"): {"InstanceProfile": {"Roles": [{"RoleName": "TheRole"}]}},
        ("iam", "list_role_policies"): {"PolicyNames": ["ChronosTraining"]},
        ("iam", "get_role_policy"): {
            "PolicyDocument": {
                "Statement": [
                    allow("s3:ListBucket", f"arn:aws:s3:::{BUCKET}"),
                    allow(["s3:GetObject", "s3:PutObject"], [f"arn:aws:s3:::{BUCKET}/dev/*"]),
                ]
            }
        },
        ("iam", "get_role"): {"Role": {}},
        ("ec2", "describe_subnets"): {
            "Subnets": [subnet("subnet-a", "us-east-1a"), subnet("subnet-b", "us-east-1b")]
        },
        ("ec2", "describe_route_tables"): {
            "RouteTables": [route_table("rtb-1", "subnet-a", "subnet-b"), route_table("rtb-main", main=True)]
        },
        ("ec2", "describe_internet_gateways"): {"InternetGateways": [{"InternetGatewayId": "igw-1"}]},
        ("ec2", "describe_vpc_endpoints"): {
            "VpcEndpoints": [
                {
                    "VpcEndpointId": "vpce-1",
                    "VpcEndpointType": "Gateway",
                    "ServiceName": "com.amazonaws.us-east-1.s3",
                    "State": "available",
                    "RouteTableIds": ["rtb-1"],
                }
            ]
        },
        ("ec2", "describe_security_groups"): {
            "SecurityGroups": [{"IpPermissionsEgress": [HTTPS], "IpPermissions": []}]
        },
        ("ec2", "describe_instance_types"): lambda InstanceTypes: {
            "InstanceTypes": [TYPES[name] for name in reversed(InstanceTypes)]
        },
        ("ec2", "describe_instance_type_offerings"): {"InstanceTypeOfferings": offers},
        ("ec2", "describe_availability_zones"): {
            "AvailabilityZones": [{"ZoneName": f"us-east-1{letter}"} for letter in "fdcba"]
        },
        ("ec2", "describe_instances"): {"Reservations": []},
        ("ec2", "describe_volumes"): {"Volumes": []},
        ("ec2", "describe_spot_instance_requests"): {"SpotInstanceRequests": []},
        ("service-quotas", "get_service_quota"): {"Quota": {"Value": 8.0}},
        ("service-quotas", "list_requested_service_quota_change_history_by_quota"): {"RequestedQuotas": []},
        ("ssm", "get_parameter"): {"Parameter": {"Value": "ami-1"}},
        ("ec2", "describe_images"): {"Images": [image()]},
        ("scheduler", "get_schedule_group"): {"State": "ACTIVE"},
        ("scheduler", "list_schedules"): {"Schedules": []},
        ("sns", "get_topic_attributes"): {
            "Attributes": {"SubscriptionsConfirmed": "1", "SubscriptionsPending": "0"}
        },
    }


@functools.cache
def dev_settings() -> Settings:
    return load_settings("dev", variables={})


@functools.cache
def uploaded_scripts() -> dict[str, bytes]:
    """What `invoke upload` sends of scripts and tools."""
    sent = {**instance_scripts(REPOSITORY), **report_scripts()}
    return {**{name: path.read_bytes() for name, path in sent.items()}, "bin/jq": b"jq"}


@functools.cache
def scripts_manifest() -> bytes:
    sums = [f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in uploaded_scripts().items()]
    return "".join(sums).encode()


def locked_packages() -> dict[str, str]:
    """What requirements/dev.lock says, as if it were installed."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", (REPOSITORY / "requirements" / "dev.lock").read_text(), re.M)
    return {normal(name): version for name, version in pins}


@dataclass
class World:
    """The account, this machine, and the settings of `dev`; `set` changes a setting."""

    plan: dict[tuple[str, str], Any] = field(default_factory=healthy_plan)
    s3: FakeS3 = field(default_factory=FakeS3)
    settings: Settings = field(default_factory=dev_settings)
    programs: dict[str, Printed] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    packages: dict[str, str] = field(default_factory=locked_packages)
    node_modules: Callable[[str, str], Path] = lambda package, program: (
        REPOSITORY / "node_modules" / package / "bin" / program
    )
    clock_ahead_seconds: float = 0.0
    commands: list[Sequence[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = {**self.s3.plan(), **self.plan}
        self.aws = FakeAws(self.plan)
        self.programs = {
            "bash": Printed(0, "5.2\n"),
            "aws s3api": Printed(0, '{"IfMatch": "", "IfNoneMatch": ""}'),
            "aws --version": Printed(0, "aws-cli/1.46.3 Python/3.11 Linux\n"),
            "aws ec2": Printed(254, "", f"\n{DRY_RUN}\n"),
            "node": Printed(0, "v24.1.0\n"),
            **self.programs,
        }
        self.upload()

    def set(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)

    def put(self, key: str, value: Mapping[str, Any] | bytes) -> None:
        self.s3.objects[key] = value if isinstance(value, bytes) else json.dumps(value).encode()

    def upload(self) -> None:
        """Everything that `invoke upload` sends, with bodies of the right size."""
        for name, body in uploaded_scripts().items():
            self.put(f"cached-datasets/scripts/{name}", body)
        self.put("cached-datasets/scripts/MANIFEST.sha256", scripts_manifest())
        self.environment_manifest()
        self.put("cached-datasets/python-env/env.tar.gz", bytes(1000))
        self.data_manifest()
        self.put("cached-datasets/training-data/a.parquet", bytes(500))

    def environment_manifest(self, **changes: Any) -> None:
        described = {
            "archive": "env.tar.gz",
            "pieces_sha256": "e" * 64,
            "bytes": 1000,
            "unpacked_bytes": 6_000_000_000,
            "python": "3.11.7",
            "glibc": "2.36",
            "requirements": ["torch==2.13.0", "nvidia-cublas==13.0.0", "numpy==2.4.6"],
        }
        self.put("cached-datasets/python-env/MANIFEST.json", {**described, **changes})

    def data_manifest(self, size: int = 500) -> None:
        files = [{"name": "a.parquet", "bytes": size, "rows": 10, "series": 2}]
        self.put("cached-datasets/training-data/MANIFEST.json", {"files": files, "rows": 10, "series": 2})

    def hold(self, **changes: Any) -> None:
        """A state file, as a run has it that began half an hour ago."""
        began = to_text(NOW - timedelta(minutes=30))
        body = {
            "run_id": RUN,
            "environment": "dev",
            "status": "training",
            "current_step": "step_10",
            "instance_id": INSTANCE,
            "instance_type": "g4dn.2xlarge",
            "s3_prefix": f"s3://{BUCKET}/dev/{RUN}/",
            "timestamps": {"start": began, "last_update": to_text(NOW)},
            "training_config": {},
            "error_message": None,
            "pid": None,
            "control": {
                "revision": 1,
                "writer": "w",
                "deadline": to_text(NOW + timedelta(hours=5)),
                "attempt": 1,
            },
        }
        self.put("dev/system-state.json", {**body, **changes})

    def instance(self, state: str = "running", run_id: str = RUN, **more: Any) -> None:
        """An instance of the project in EC2."""
        tags = {"Project": "Chronos-Training", "Environment": "dev", "RunId": run_id}
        described = {
            "InstanceId": INSTANCE,
            "InstanceType": "g4dn.2xlarge",
            "State": {"Name": state},
            "LaunchTime": NOW - timedelta(minutes=29),
            "CpuOptions": {"CoreCount": 4, "ThreadsPerCore": 2},
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            **more,
        }
        self.plan["ec2", "describe_instances"] = {"Reservations": [{"Instances": [described]}]}

    def facts(self) -> Facts:
        return Facts(self.settings, self.aws, now=lambda: NOW + timedelta(seconds=self.clock_ahead_seconds))

    def machine(self) -> Machine:
        return Machine(
            run=self.run,
            which=lambda name: None if name in self.missing else f"/usr/bin/{name}",
            packages=lambda: self.packages,
            node=lambda: Path("/node"),
            node_program=self.node_modules,
        )

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None) -> Printed:
        self.commands.append(argv)
        for prefix, printed in self.programs.items():
            words = prefix.split()
            if [Path(argv[0]).name, *argv[1 : len(words)]] == words:
                return printed
        assert argv[0] == "jq", f"an unplanned program: {argv}"
        return run_program(argv, env)

    def checks(self) -> list[Check]:
        return checks(self.facts(), self.machine())

    def round(self) -> list[Report]:
        """Every check's report."""
        return list(examine(self.facts(), self.checks()))

    def examine(self, name: str) -> list[Finding]:
        """One check's findings, by its name in the round."""
        facts = self.facts()
        wanted = [check for check in checks(facts, self.machine()) if check.name == name]
        assert len(wanted) == 1, name
        return [finding for report in examine(facts, wanted) for finding in report.findings]
