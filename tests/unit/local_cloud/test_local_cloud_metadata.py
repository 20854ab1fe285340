"""The instance metadata service: IMDSv2, and credentials that the SDKs find by themselves."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from chronos_ec2.local_cloud.metadata import MetadataService, look_up
from chronos_ec2.local_cloud.metadata_tree import RoleCredentials

TOKEN = "X-aws-ec2-metadata-token"
LIFETIME = "X-aws-ec2-metadata-token-ttl-seconds"


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def token_of(url: str, lifetime: str = "60") -> str:
    status, token = ask(f"{url}/latest/api/token", "PUT", **{LIFETIME: lifetime})
    assert status == 200
    return token


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def service(clock: list[float]) -> Iterator[str]:
    tree = {"meta-data/ami-id": lambda: "ami-1", "meta-data/placement/region": lambda: "us-east-1"}
    served = MetadataService(lambda: tree, now=lambda: clock[0])
    yield served.url
    served.close()


def test_a_request_without_a_valid_token_is_refused(service: str, clock: list[float]) -> None:
    assert ask(f"{service}/latest/meta-data/ami-id")[0] == 401
    assert ask(f"{service}/latest/meta-data/ami-id", **{TOKEN: "made up"})[0] == 401
    token = token_of(service)
    assert ask(f"{service}/latest/meta-data/ami-id", **{TOKEN: token}) == (200, "ami-1")
    clock[0] += 61
    assert ask(f"{service}/latest/meta-data/ami-id", **{TOKEN: token})[0] == 401


@pytest.mark.parametrize("lifetime", ["0", "21601", "x", "", "²", "9" * 5000])
def test_a_token_needs_a_lifetime_in_range(service: str, lifetime: str) -> None:
    assert ask(f"{service}/latest/api/token", "PUT", **{LIFETIME: lifetime})[0] == 400


def test_a_forwarded_request_gets_no_token(service: str) -> None:
    assert (
        ask(f"{service}/latest/api/token", "PUT", **{LIFETIME: "60", "X-Forwarded-For": "1.2.3.4"})[0] == 403
    )


def test_unknown_paths_are_404_and_folders_are_listed(service: str) -> None:
    headers = {TOKEN: token_of(service)}
    assert ask(f"{service}/latest/meta-data/spot/instance-action", **headers)[0] == 404
    assert ask(f"{service}/latest/meta-data/", **headers) == (200, "ami-id\nplacement/")
    assert ask(f"{service}/latest/meta-data/placement", **headers) == (200, "region")


def test_look_up_finds_values_before_folders() -> None:
    assert look_up({"a/b": lambda: "value"}, "a/b") == "value"
    assert look_up({"a/b": lambda: "value"}, "a/b/c") is None
    assert look_up({"a/b": lambda: "value"}, "") == "a/"


def test_credentials_are_renewed_before_they_expire() -> None:
    now = [datetime(2026, 11, 23, 12, tzinfo=UTC)]
    backend = SimpleNamespace(partition="aws")
    instance = SimpleNamespace(
        id="i-1", owner_id="123456789012", region_name="us-east-1", ec2_backend=backend
    )
    credentials = RoleCredentials(instance, now=lambda: now[0])
    role = SimpleNamespace(arn="arn:aws:iam::123456789012:role/R", name="R")
    first = json.loads(credentials.document(role))
    assert first["Expiration"] == "2026-11-23T13:00:00Z"
    now[0] += timedelta(minutes=29)
    assert json.loads(credentials.document(role)) == first
    now[0] += timedelta(minutes=2)
    second = json.loads(credentials.document(role))
    assert second["AccessKeyId"] != first["AccessKeyId"]
    assert second["Expiration"] == "2026-11-23T13:31:00Z"


GUEST = r"""#!/usr/bin/env bash
M=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
T=$(curl -sf -X PUT "$M/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
get() { curl -s -w '%{http_code}' -H "X-aws-ec2-metadata-token: $T" "$M/$1"; }
for path in meta-data/instance-id meta-data/instance-type meta-data/ami-id meta-data/placement/region \
  meta-data/placement/availability-zone meta-data/iam/security-credentials/ meta-data/tags/instance/RunId \
  meta-data/spot/instance-action meta-data/events/recommendations/rebalance; do
  echo "$path $(get $path)"
done > answers
get user-data > user-data
AWS_DEFAULT_REGION=us-east-1 aws sts get-caller-identity --query Arn --output text > cli 2>&1
touch done
"""


@pytest.fixture(scope="module")
def profile(cloud: Any) -> str:
    iam = cloud.client("iam")
    iam.create_role(RoleName="GuestRole", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="GuestProfile")
    iam.add_role_to_instance_profile(InstanceProfileName="GuestProfile", RoleName="GuestRole")
    return "GuestProfile"


def test_a_guest_learns_who_it_is_and_gets_its_role(
    cloud: Any, profile: str, eventually: Callable[..., bool]
) -> None:
    instance = cloud.boot(
        GUEST,
        IamInstanceProfile={"Name": profile},
        MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "RunId", "Value": "r-1"}]}],
    )
    disk = cloud.disk(instance)
    assert eventually(lambda: (disk / "done").exists()), cloud.console(instance)
    answers = dict(line.split(" ", 1) for line in (disk / "answers").read_text().splitlines())
    assert answers == {
        "meta-data/instance-id": f"{instance}200",
        "meta-data/instance-type": "g5.xlarge200",
        "meta-data/ami-id": "ami-0c4e02d5d1f0a2601200",
        "meta-data/placement/region": "us-east-1200",
        "meta-data/placement/availability-zone": "us-east-1a200",
        "meta-data/iam/security-credentials/": "GuestRole200",
        "meta-data/tags/instance/RunId": "r-1200",
        "meta-data/spot/instance-action": "404",
        "meta-data/events/recommendations/rebalance": "404",
    }
    assert (disk / "user-data").read_text() == f"{GUEST}200"
    arn = f"arn:aws:sts::123456789012:assumed-role/GuestRole/{instance}"
    assert (disk / "cli").read_text().strip() == arn


def test_boto3_in_a_guest_uses_the_role(cloud: Any, profile: str, eventually: Callable[..., bool]) -> None:
    import sys

    lines = "\n".join(
        [
            f"#!{sys.executable}",
            "import boto3, os",
            "identity = boto3.client('sts', region_name='us-east-1').get_caller_identity()",
            "open('arn', 'w').write(identity['Arn'])",
            "os.system('poweroff')",
        ]
    )
    instance = cloud.boot(
        lines, IamInstanceProfile={"Name": profile}, InstanceInitiatedShutdownBehavior="stop"
    )
    assert cloud.ends_as(instance, "stopped"), cloud.console(instance)
    assert (cloud.disk(instance) / "arn").read_text().endswith(f"assumed-role/GuestRole/{instance}")


def test_no_tags_and_no_role_unless_asked_for(cloud: Any, eventually: Callable[..., bool]) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "RunId", "Value": "r-1"}]}]
    instance = cloud.boot(GUEST.replace("aws sts", "true sts"), TagSpecifications=tags)
    disk = cloud.disk(instance)
    assert eventually(lambda: (disk / "done").exists())
    answers = dict(line.split(" ", 1) for line in (disk / "answers").read_text().splitlines())
    assert answers["meta-data/tags/instance/RunId"] == "404"
    assert answers["meta-data/iam/security-credentials/"] == "404"
