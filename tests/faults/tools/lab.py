"""One place to break runs in: an embedded AWS, fast programs, and looks at what is left afterwards."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import ClientError

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now
from chronos_ec2.state.store import StateStore
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.reap import Reaper, reap
from chronos_ec2.workstation.settings import REPOSITORY
from chronos_ec2.workstation.watch import watch
from prefork import Prefork
from tools.cloud import furnish, local_aws, start_cloud, stop_cloud
from tools.fault_proxy import Fault, FaultProxy
from tools.history import History
from tools.programs import Running
from tools.scenes import record_body, state_body

ENVIRONMENT: Final = "local"
SCHEDULE_GROUP: Final = "ChronosTraining"
STATE_KEY: Final = f"{ENVIRONMENT}/system-state.json"
LIVE: Final = ["pending", "running", "stopping", "stopped"]
LATER: Final = timedelta(minutes=40)
"""Past every deadline, patience and staleness of a local run."""


class Lab:
    """The embedded AWS `url`, and everything a proof does to it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.home = self.folder / "cloud"
        self.history = History()
        # Bash reads a script as it goes: what is proven is the scripts as they were when the proof began.
        self.shell = shutil.copytree(REPOSITORY / "shell", self.folder / "repository" / "shell")
        (self.folder / "repository" / "python").symlink_to(REPOSITORY / "python")
        self.programs = Prefork(self.folder / "p")
        try:
            self.url = start_cloud(self.home)
            furnish(self.aws, str(self.programs.python), self.folder)
        except BaseException:
            self.close()
            raise
        guest_aws = self.home / "image" / "bin" / "aws"
        guest_aws.unlink()
        shutil.copy(self.programs.bin / "aws", guest_aws)
        self.put_guests_to_sleep(True)

    def close(self) -> None:
        """Stop everything and leave nothing."""
        stop_cloud(self.home)
        self.programs.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def aws(self) -> Aws:
        """Clients that go to the embedded AWS directly."""
        return local_aws(self.home)

    @property
    def bucket(self) -> str:
        """The stack's bucket."""
        return self.aws.bucket

    @property
    def store(self) -> StateStore:
        """The state file, without a proxy."""
        return StateStore(self.aws.s3, self.bucket, ENVIRONMENT)

    # -- callers ----------------------------------------------------------------------------------

    @contextmanager
    def proxy(self, fault: Fault | None = None) -> Iterator[FaultProxy]:
        """A proxy for one caller."""
        made = FaultProxy(self.url, fault, self.history.see)
        try:
            yield made
        finally:
            made.close()

    def variables(self, url: str | None = None) -> dict[str, str]:
        """The environment of a program on the laptop."""
        path = f"{self.programs.bin}:{REPOSITORY / '.venv' / 'bin'}:{os.environ['PATH']}"
        return {
            "PATH": path,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "CHRONOS_PYTHON": str(self.programs.python),
            "CHRONOS_LOCAL_HOME": str(self.home),
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self, argv: Sequence[str], url: str | None = None, **more: str) -> Running:
        """Start a program on the laptop."""
        return Running(list(argv), self.variables(url) | more, self.folder)

    def launch(self, *words: str, url: str | None = None) -> Running:
        """Start a launch of a run that trains nothing."""
        script = str(self.shell / "launch_training.sh")
        trainer = ("--set", "trainer=command", "--set", 'command=["true"]')
        return self.start([script, "--env", ENVIRONMENT, "--json", *trainer, *words], url)

    def kill(self, *words: str, url: str | None = None) -> Running:
        """Start a kill."""
        script = str(self.shell / "kill_training.sh")
        return self.start(
            [script, "--env", ENVIRONMENT, "--yes", *words], url, CHRONOS_KILL_GRACE_SECONDS="1"
        )

    def bash(self, line: str, *words: str, url: str | None = None) -> Running:
        """Start a line of Bash with the state library sourced."""
        library = self.shell / "lib"
        head = f"set -Eeuo pipefail; source {library}/workstation.sh; source {library}/companions.sh; "
        return self.start(["bash", "-c", head + line, "bash", *words], url, AWS_MAX_ATTEMPTS="3")

    def put_guests_to_sleep(self, asleep: bool, endpoint: str | None = None) -> None:
        """Whether guests that boot from now on run their user data, and by which endpoint they reach AWS."""
        for name, text in (("asleep", "" if asleep else None), ("guest-endpoint", endpoint)):
            switch = self.home / name
            if text is None:
                switch.unlink(missing_ok=True)
            else:
                switch.write_text(text)

    # -- what is there ----------------------------------------------------------------------------

    def instances(self, states: Sequence[str] = LIVE) -> dict[str, str]:
        """Run ids of the instances in some states, by instance id."""
        filters = [{"Name": "instance-state-name", "Values": list(states)}]
        answer = self.aws.ec2.describe_instances(Filters=filters)
        found = [item for group in answer["Reservations"] for item in group["Instances"]]
        return {
            item["InstanceId"]: next(tag["Value"] for tag in item["Tags"] if tag["Key"] == "RunId")
            for item in found
        }

    def state(self) -> dict[str, Any] | None:
        """The state file's body, if there is one."""
        seen = self.store.read()
        return seen.body if seen else None

    def record(self, run_id: str) -> dict[str, Any] | None:
        """A run's `run.json`."""
        try:
            body = self.aws.s3.get_object(Bucket=self.bucket, Key=f"{ENVIRONMENT}/{run_id}/run.json")["Body"]
        except ClientError:
            return None
        found: dict[str, Any] = json.loads(body.read())
        return found

    def run_ids(self) -> set[str]:
        """Every run that has a prefix."""
        answer = self.aws.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"{ENVIRONMENT}/", Delimiter="/")
        return {item["Prefix"].split("/")[1] for item in answer.get("CommonPrefixes", [])}

    def staged(self) -> list[str]:
        """Keys of staged bodies."""
        answer = self.aws.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"{STATE_KEY}.tmp-")
        return [item["Key"] for item in answer.get("Contents", [])]

    # -- verbs in this process --------------------------------------------------------------------

    def reap(self, *, later: timedelta = LATER, url: str | None = None) -> tuple[ExitCode, str]:
        """`invoke reap --yes` as if run later; its exit code and what it said."""
        out = io.StringIO()
        aws = self.aws_by(url)
        reaper = Reaper(
            aws.s3,
            aws.ec2,
            self.bucket,
            ENVIRONMENT,
            stale_after=timedelta(minutes=aws.settings.stale_minutes),
            claim_patience=timedelta(seconds=aws.settings.claim_patience_seconds),
            out=out,
            now=lambda: utc_now() + later,
            sleep=lambda _seconds: time.sleep(0.05),
        )
        code = reap(reaper, out=out, dry_run=False, as_json=False, confirm=lambda: True)
        return code, out.getvalue()

    def watch_once(self, *, later: timedelta = timedelta(0), url: str | None = None) -> dict[str, Any]:
        """`invoke watch --once --json`; the object, with the exit code under `exit_code`."""
        out = io.StringIO()
        aws = self.aws_by(url)
        code = watch(
            aws.s3,
            aws.ec2,
            self.bucket,
            ENVIRONMENT,
            out=out,
            follow=False,
            as_json=True,
            heartbeat_seconds=4,
            now=lambda: utc_now() + later,
            sleep=lambda _seconds: None,
        )
        shown: dict[str, Any] = json.loads(out.getvalue())
        return shown | {"exit_code": int(code)}

    def s3_by(self, url: str) -> Any:
        """An S3 client by a proxy, with a single try a call, as the instance's heartbeat has it."""
        config = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1})
        return self.aws.session.create_client(
            "s3", endpoint_url=url, config=config, aws_access_key_id="test", aws_secret_access_key="test"
        )

    def aws_by(self, url: str | None) -> Aws:
        """Clients by a proxy: a home of its own names the proxy as the endpoint."""
        if url is None:
            return self.aws
        home = self.folder / f"by-{secrets.token_hex(4)}"
        home.mkdir()
        (home / "endpoint.json").write_text(json.dumps({"endpoint_url": url}))
        aws = local_aws(home)
        for client in (aws.s3, aws.ec2):
            _ = client.meta  # made while the variable names this home
        os.environ["CHRONOS_LOCAL_HOME"] = str(self.home)
        return aws

    # -- scenes -----------------------------------------------------------------------------------

    def put_state(self, body: bytes) -> None:
        """Put something where the state file is."""
        self.aws.s3.put_object(Bucket=self.bucket, Key=STATE_KEY, Body=body)

    def claim(
        self,
        run_id: str = "2025-01-15-143022",
        *,
        status: str = "initialization",
        instance_id: str | None = None,
        heard: datetime | None = None,
    ) -> dict[str, Any]:
        """A valid state file and run record, as a launch leaves them; the state's body."""
        body = state_body(self.bucket, ENVIRONMENT, run_id, status, instance_id, heard or utc_now())
        text = json.dumps(body).encode()
        self.put_state(text)
        self.history.begin(text)
        record = record_body(ENVIRONMENT, run_id, instance_id, heard or utc_now())
        self.aws.s3.put_object(
            Bucket=self.bucket, Key=f"{ENVIRONMENT}/{run_id}/run.json", Body=json.dumps(record).encode()
        )
        return body

    def machine(self, run_id: str) -> str:
        """An instance with a run's tags; its id."""
        tags = {"Project": "Chronos-Training", "Environment": ENVIRONMENT, "RunId": run_id}
        answer = self.aws.ec2.run_instances(
            ImageId="ami-0c55b159cbfafe1f0",
            InstanceType="t3.medium",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
                }
            ],
        )
        return str(answer["Instances"][0]["InstanceId"])

    def clear(self) -> None:
        """Back to nothing: no state, no staged body, no record, no schedule, no instance."""
        self.history = History()
        live = list(self.instances([*LIVE, "shutting-down"]))
        if live:
            self.aws.ec2.terminate_instances(InstanceIds=live)
        for prefix in (f"{ENVIRONMENT}/", "logs/"):
            pages = self.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            keys = [{"Key": item["Key"]} for page in pages for item in page.get("Contents", [])]
            for start in range(0, len(keys), 1000):
                self.aws.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": keys[start : start + 1000]})
        self.forget_schedules()
        self.wait_for_no_instance()

    def schedules(self) -> list[str]:
        """The names of the schedules that are left."""
        answer = self.aws.client("scheduler").list_schedules(GroupName=SCHEDULE_GROUP)
        return [item["Name"] for item in answer["Schedules"]]

    def forget_schedules(self) -> None:
        """Nothing is scheduled any more."""
        client = self.aws.client("scheduler")
        for name in self.schedules():
            client.delete_schedule(Name=name, GroupName=SCHEDULE_GROUP)

    def wait_for_no_instance(self, seconds: float = 60) -> None:
        """Wait until EC2 calls every instance terminated."""
        end = time.monotonic() + seconds
        while left := self.instances([*LIVE, "shutting-down"]):
            assert time.monotonic() < end, f"still there: {left}"
            time.sleep(0.2)
