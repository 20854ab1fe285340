"""One embedded AWS for all whole-run tests: deployed by the real CDK CLI, filled by the real upload."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.settings import REPOSITORY, load_settings
from outside_looks import processes_naming
from prefork import Prefork

INVOKE = str(Path(sys.executable).with_name("invoke"))
# What takes an administrator, or no AWS at all; everything else is done by who holds the launcher's policy.
NOT_FOR_LAUNCHERS = ("deploy", "destroy", "build-env", "sample-data", "render", "local.")

# The CDK's packages are unpacked once, not for each HOME that a test makes up: it takes a minute.
UNPACKED = {"JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(REPOSITORY / ".chronos" / "jsii")}
LIGHT = {"CHRONOS_TRAINER": "test", "CHRONOS_ENVIRONMENT_REQUIREMENTS": "requirements/instance-test.lock"}
"""A trainer that needs a second, and an environment without torch; test_chronos.py has the real ones."""


@dataclass
class Cloud:
    """An embedded AWS of the tests' own, and the ways a user has to reach it.

    Attributes:
        quick: the folder of an `aws` and a `python` that start at once; launches use them then.
    """

    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    launcher: dict[str, str] = field(default_factory=dict)
    quick: Path | None = None

    def invoke(self, *words: str, timeout: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
        """Run an Invoke task as a user would, from another folder."""
        argv = [INVOKE, "--search-root", str(REPOSITORY), *words]
        return self._run(argv, timeout, {**self._caller(words[0]), **more})

    def _run(
        self, argv: list[str], timeout: float, variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=self.home,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _caller(self, task: str) -> dict[str, str]:
        return {} if task.startswith(NOT_FOR_LAUNCHERS) else self.launcher

    def script(
        self, name: str, *words: str, timeout: float = 600, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a Bash script without Invoke, on the variables that `local.env` prints."""
        exports = self.invoke("local.env").stdout
        line = f'{exports}\nexec {REPOSITORY}/shell/{name} "$@"'
        return self._run(["bash", "-c", line, name, *words], timeout, more)

    def give_to_launcher(self) -> None:
        """From now on the tasks act as a user who has the stack's launcher policy and no other right."""
        iam, exports = self.aws.client("iam"), self.aws.client("cloudformation").list_exports()["Exports"]
        (policy,) = (one["Value"] for one in exports if one["Name"] == "ChronosTraining-LauncherPolicyArn")
        iam.create_user(UserName="launcher")
        iam.attach_user_policy(UserName="launcher", PolicyArn=policy)
        key = iam.create_access_key(UserName="launcher")["AccessKey"]
        self.launcher = {
            # Not as the embedded AWS, whose owner may do anything: as any AWS that the variables name.
            "CHRONOS_EMBEDDED": "false",
            "AWS_ENDPOINT_URL": self.aws.ec2.meta.endpoint_url,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def aws(self) -> Aws:
        """Clients of this AWS, as its owner."""
        os.environ["CHRONOS_LOCAL_HOME"] = str(self.home)  # it may have been another test's in between
        return self._made_once

    @cached_property
    def _made_once(self) -> Aws:
        return Aws(load_settings("local", variables={}))

    def launch(self, *words: str) -> dict[str, Any]:
        """Launch a run; what `--json` printed."""
        flags = ("--env", "local", "--json", *words)
        done = (
            self.invoke("launch", *flags) if self.quick is None else self._launch_quickly(self.quick, flags)
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _launch_quickly(self, programs: Path, flags: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {
            "PATH": path,
            "CHRONOS_PYTHON": str(programs.with_name("python")),
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        argv = [str(REPOSITORY / "shell" / "launch_training.sh"), *flags]
        return self._run(argv, 600, {**self.launcher, **variables})

    def follow(self, run_id: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Watch a run to its end."""
        words = ("watch", "--env", "local", "--run", run_id, "--poll-seconds", "1")
        return self.invoke(*words, timeout=timeout)

    def record(self, run_id: str) -> dict[str, Any]:
        """The run's `run.json`."""
        found: dict[str, Any] = json.loads(self.body(run_id, "run.json"))
        return found

    def body(self, run_id: str, name: str) -> bytes:
        """An object that a run has left."""
        aws = self.aws
        return bytes(aws.s3.get_object(Bucket=aws.bucket, Key=f"local/{run_id}/{name}")["Body"].read())

    def step(self) -> str:
        """The `current_step` of the environment's state file; empty when there is none."""
        aws = self.aws
        try:
            answer = aws.s3.get_object(Bucket=aws.bucket, Key="local/system-state.json")
        except aws.s3.exceptions.NoSuchKey:
            return ""
        return str(json.loads(answer["Body"].read())["current_step"])

    def losses(self, run_id: str) -> dict[int, float]:
        """The loss of each step, as the run's metrics.jsonl has it."""
        return losses_in(self.body(run_id, "metrics.jsonl").decode())

    @contextmanager
    def altered(self, key: str, alter: Callable[[bytes], bytes]) -> Iterator[None]:
        """Another body for an object, and no digest beside it, for a while."""
        s3, bucket = self.aws.s3, self.aws.bucket
        good = s3.get_object(Bucket=bucket, Key=key)
        body, metadata = good["Body"].read(), good["Metadata"]
        s3.put_object(Bucket=bucket, Key=key, Body=alter(body))
        try:
            yield
        finally:
            s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata=metadata)

    def keys(self, prefix: str) -> set[str]:
        """The keys under a prefix, without it."""
        aws = self.aws
        pages = aws.s3.get_paginator("list_objects_v2").paginate(Bucket=aws.bucket, Prefix=prefix)
        return {item["Key"][len(prefix) :] for page in pages for item in page.get("Contents", [])}

    def live_instances(self) -> list[str]:
        """Ids of the instances that bill."""
        states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        answer = self.aws.ec2.describe_instances(Filters=states)
        return [item["InstanceId"] for group in answer["Reservations"] for item in group["Instances"]]

    def assert_nothing_left(self, patience_seconds: float = 60) -> None:
        """No instance, no state, no staged state, no process, no disk, once the machine had time to go."""
        deadline = time.monotonic() + patience_seconds
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []

    def _left(self) -> list[str]:
        disks = self.home / "instances"
        return [
            *self.live_instances(),
            *sorted(key for key in self.keys("local/") if key.startswith("system-state.json")),
            *([str(disk) for disk in disks.iterdir()] if disks.exists() else []),
            *processes_naming(disks),
        ]


def losses_in(lines: str) -> dict[int, float]:
    """The loss of each step, as a trainer prints it."""
    events = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return {event["step"]: event["loss"] for event in events if "loss" in event and event.get("step")}


@pytest.fixture(scope="session")
def started_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """An embedded AWS with nothing in it, stopped at the end."""
    home = tmp_path_factory.mktemp("embedded aws")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CHRONOS_"))}
    cloud = Cloud(home, {**kept, **LIGHT, **UNPACKED, "CHRONOS_LOCAL_HOME": str(home), "HOME": str(home)})
    started = cloud.invoke("local.start")
    assert started.returncode == 0, started.stderr
    yield cloud
    stopped = cloud.invoke("local.stop")
    assert stopped.returncode == 0, stopped.stderr
    assert processes_naming(home) == []


@pytest.fixture(scope="session")
def cloud(started_cloud: Cloud) -> Cloud:
    """An embedded AWS on which everything is deployed and uploaded."""
    data = str(started_cloud.home / "data")
    for words in (
        ["deploy", "--env", "local"],
        ["sample-data", "--into", data],
        ["build-env", "--env", "local"],
        ["upload", "--env", "local", "--data", data],
    ):
        done = started_cloud.invoke(*words, timeout=600)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        if words[0] == "deploy":
            started_cloud.give_to_launcher()
    return started_cloud


@pytest.fixture(scope="session")
def with_torch(cloud: Cloud) -> None:
    """The environment that instances get by default, in place of the light one."""
    requirements = {"CHRONOS_ENVIRONMENT_REQUIREMENTS": "requirements/instance.lock"}
    for words in (("build-env",), ("upload", "--data", str(cloud.home / "data"))):
        done = cloud.invoke(*words, "--env", "local", timeout=1800, **requirements)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def prefork() -> Iterator[Prefork]:
    """An `aws` that starts at once."""
    with tempfile.TemporaryDirectory(prefix="prefork-") as folder:
        made = Prefork(Path(folder) / "p")
        yield made
        made.close()


@pytest.fixture
def quick_aws(cloud: Cloud, prefork: Prefork) -> Iterator[None]:
    """The AWS CLI starts at once, on the laptop and on machines: a run is mostly its starting otherwise."""
    (guest_aws,) = (cloud.home / "image").rglob("bin/aws")
    aside = guest_aws.rename(guest_aws.with_name("aws-aside"))
    shutil.copy(prefork.bin / "aws", guest_aws)
    cloud.quick = prefork.bin
    yield
    cloud.quick = None
    aside.replace(guest_aws)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The long forms of test_chronos.py, test_permissions.py and test_nodes.py."""
    words = "tests/e2e: train Chronos in its own environment, on a spot machine (ten minutes)"
    parser.addoption("--chronos", action="store_true", help=words)
    words = "tests/e2e: take every permission of the instance's role away in turn"
    parser.addoption("--every-permission", action="store_true", help=words)
    words = "tests/e2e: train on two machines, of which one dies (ten minutes)"
    parser.addoption("--two-machines", action="store_true", help=words)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture has been made."""
    mark = item.get_closest_marker("long_form")
    if mark is not None and not item.config.getoption(mark.args[0], False):
        pytest.skip(f"{mark.args[0]} has it")
