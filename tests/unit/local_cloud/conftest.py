"""One real embedded AWS for all tests here, in its own process and home."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from chronos_ec2.local_cloud import control
from chronos_ec2.local_cloud.home import Endpoint

AMI = "ami-0c4e02d5d1f0a2601"
GRACE_SECONDS = "1.0"


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Look again and again until the condition holds; False when it never did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.03)
    return condition()


class Cloud:
    """A running embedded AWS and what tests do with it."""

    def __init__(self, home: Path, endpoint: Endpoint) -> None:
        self.home = home
        self.endpoint = endpoint
        self.ec2 = self.client("ec2")
        self.s3 = self.client("s3")

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(max_pool_connections=30, retries={"total_max_attempts": 1}),
        )

    def bucket(self, name: str) -> str:
        self.s3.create_bucket(Bucket=name)
        return name

    def boot(self, script: str, **options: Any) -> str:
        launch = {
            "ImageId": AMI,
            "InstanceType": "g5.xlarge",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": script,
            "InstanceInitiatedShutdownBehavior": "terminate",
        }
        return str(self.ec2.run_instances(**{**launch, **options})["Instances"][0]["InstanceId"])

    def instance(self, instance_id: str) -> dict[str, Any]:
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        instance: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return instance

    def state(self, instance_id: str) -> str:
        return str(self.instance(instance_id)["State"]["Name"])

    def ends_as(self, instance_id: str, state: str, seconds: float = 30.0) -> bool:
        return wait_for(lambda: self.state(instance_id) == state, seconds)

    def console(self, instance_id: str) -> str:
        return str(self.ec2.get_console_output(InstanceId=instance_id)["Output"])

    def disk(self, instance_id: str) -> Path:
        return self.home / "instances" / instance_id


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("local cloud")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHRONOS_LOCAL_SHUTDOWN_GRACE", GRACE_SECONDS)
        patch.setenv("SECRET_OF_THE_HOST", "must not be seen in a guest")
        endpoint = control.start(home, 0)
    try:
        yield Cloud(home, endpoint)
    finally:
        control.stop(home)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def eventually() -> Callable[..., bool]:
    return wait_for


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Path]:
    """A home for tests that start a server of their own."""
    os.environ["CHRONOS_LOCAL_SHUTDOWN_GRACE"] = GRACE_SECONDS
    yield tmp_path / "home"
    control.stop(tmp_path / "home")
    del os.environ["CHRONOS_LOCAL_SHUTDOWN_GRACE"]
