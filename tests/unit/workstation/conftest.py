"""A made-up AWS in this process, a clock that tests move, and no way to anybody's real account."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto import mock_aws

from chronos_ec2.state.clock import to_text

BUCKET = "chronos-test"
RUN = "2025-01-15-143022"
START = datetime(2025, 1, 15, 14, 30, 22, tzinfo=UTC)


class Clock:
    """A clock that only sleeping moves; `during` runs an action in the n-th sleep from now."""

    def __init__(self) -> None:
        self.time = START
        self.sleeps = 0
        self._actions: dict[int, list[Callable[[], object]]] = {}

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.sleeps += 1
        if self.sleeps > 2000:
            raise AssertionError("slept 2000 times: the code under test never ends")
        for action in self._actions.pop(self.sleeps, []):
            action()

    def during(self, nth: int, action: Callable[[], object]) -> None:
        self._actions.setdefault(self.sleeps + nth, []).append(action)

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Faulty:
    """A client that raises a planned error for the next calls of a method, then works again."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.plans: dict[str, list[Exception]] = {}
        self.calls: list[str] = []

    def fail(self, method: str, error: Exception | str, times: int = 1) -> None:
        if isinstance(error, str):
            operation = "".join(map(str.capitalize, method.split("_")))
            error = ClientError({"Error": {"Code": error, "Message": "planned"}}, operation)
        self.plans.setdefault(method, []).extend([error] * times)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.plans.get(name):
                raise self.plans[name].pop(0)
            return real(*args, **kwargs)

        return call


class World:
    """A bucket, an EC2 and a clock, with words for what a run leaves in them."""

    def __init__(self, s3: Any, ec2: Any) -> None:
        self.real_s3 = s3
        self.real_ec2 = ec2
        self.s3 = Faulty(self.real_s3)
        self.ec2 = Faulty(self.real_ec2)
        self.bucket = BUCKET
        self.clock = Clock()
        self.real_s3.create_bucket(Bucket=BUCKET)

    def put(self, key: str, body: bytes | str | dict[str, Any], **more: Any) -> None:
        if isinstance(body, dict):
            body = json.dumps(body)
        self.real_s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)

    def get(self, key: str) -> bytes:
        return bytes(self.real_s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        found = self.real_s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [item["Key"] for item in found]

    def put_state(self, status: str, step: str, run_id: str = RUN, **changes: Any) -> None:
        body = {
            "run_id": run_id,
            "environment": "dev",
            "status": status,
            "current_step": step,
            "instance_id": "i-0123456789abcdef0",
            "instance_type": "g4dn.2xlarge",
            "s3_prefix": f"s3://{BUCKET}/dev/{run_id}/",
            "timestamps": {"start": to_text(START), "last_update": to_text(self.clock.now())},
            "training_config": {},
            "error_message": None,
            "pid": None,
            "control": {"revision": 1, "writer": "w", "deadline": to_text(START), "attempt": 1},
        }
        self.put("dev/system-state.json", {**body, **changes})

    def drop_state(self) -> None:
        self.real_s3.delete_object(Bucket=BUCKET, Key="dev/system-state.json")

    def put_run(self, run_id: str = RUN, **changes: Any) -> None:
        body = {
            "schema_version": 1,
            "run_id": run_id,
            "environment": "dev",
            "started_at": to_text(datetime.strptime(run_id, "%Y-%m-%d-%H%M%S").replace(tzinfo=UTC)),
            "instance": {"id": None, "type": "g4dn.2xlarge", "market": "on-demand"},
            "ended_at": None,
            "outcome": None,
            "failed_step": None,
            "error": None,
            "exit_code": None,
            "phases": [],
            "metrics": None,
        }
        self.put(f"dev/{run_id}/run.json", {**body, **changes})

    def end_run(self, outcome: str, run_id: str = RUN, **changes: Any) -> None:
        self.put_run(run_id, outcome=outcome, ended_at=to_text(self.clock.now()), **changes)

    def run_document(self, run_id: str = RUN) -> dict[str, Any]:
        return dict(json.loads(self.get(f"dev/{run_id}/run.json")))

    def start_instance(self, run_id: str = RUN, environment: str = "dev") -> str:
        tags = {"Project": "Chronos-Training", "Environment": environment, "RunId": run_id}
        answer = self.real_ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        )
        return str(answer["Instances"][0]["InstanceId"])

    def terminate(self, instance_id: str) -> None:
        self.real_ec2.terminate_instances(InstanceIds=[instance_id])


@pytest.fixture(autouse=True)
def no_real_account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fake credentials, and a home folder without anybody's AWS configuration."""
    home = tmp_path_factory.mktemp("home")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home


@pytest.fixture(scope="session")
def clients() -> tuple[Any, Any]:
    """Clients for S3 and EC2: made once, as that takes longer than most tests."""
    session = boto3.Session("test", "test", region_name="us-east-1")
    config = Config(retries={"max_attempts": 1}, max_pool_connections=50)
    return session.client("s3", config=config), session.client("ec2", config=config)


@pytest.fixture
def world(clients: tuple[Any, Any]) -> Iterator[World]:
    """An AWS with one empty bucket."""
    with mock_aws():
        yield World(*clients)
