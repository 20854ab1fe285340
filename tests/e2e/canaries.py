"""The secrets of laptop and machine while a run goes on, and everywhere that one of them could come up."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from .conftest import Cloud

_LARGEST_OBJECT = 20 * 2**20
_LOOK_SECONDS = 0.5
# What a role's credentials look like: an instance has such, and writes them nowhere.
_ROLE_KEY = re.compile(rb"\bASIA[0-9A-Z]{12,}\b")
_ENDPOINT = re.compile(rb"(?:^|\0)AWS_EC2_METADATA_SERVICE_ENDPOINT=([^\0]+)")


class Canaries:
    """The secrets, and where they were seen while the run went on.

    Attributes:
        variables: what is planted on the laptop.
        of_role: id, secret and token of the machine's temporary key, once there is a machine.
        command_lines: of every process that a look met.
        written: all that was ever written to the bucket, also what was replaced or deleted since: the state
            in each of its moves, and as it was staged.
    """

    def __init__(self, cloud: Cloud) -> None:
        sung = secrets.token_hex(12)
        self.variables = {
            name: f"canary-{name.lower()}-{sung}"
            for name in ("HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN", "DATABASE_URL", "CHRONOS_CANARY_TOKEN")
        }
        # A setting that is for the deployment alone.
        self.variables["CHRONOS_NOTIFY_EMAIL"] = f"canary-{sung}@example.org"
        self._secrets = [*self.variables.values(), cloud.launcher["AWS_SECRET_ACCESS_KEY"]]
        self.of_role: set[str] = set()
        self._cloud = cloud
        self.command_lines: set[bytes] = set()
        self.written: list[tuple[str, bytes]] = []

    def found_in(self, what: bytes) -> bool:
        """Whether a secret of the laptop stands there, as it is or as base64 has it."""
        return _any_in(self._secrets, what)

    def role_found_in(self, what: bytes) -> bool:
        """Whether the id, the secret or the token of the machine's temporary key stands there."""
        return _ROLE_KEY.search(what) is not None or _any_in(self.of_role, what)

    @contextmanager
    def planted(self) -> Iterator[None]:
        """In every variable that a task gets; meanwhile command lines are read and S3 forgets nothing."""
        self._cloud.variables.update(self.variables)
        done = threading.Event()
        looking = threading.Thread(target=self._look, args=(done,), daemon=True)
        looking.start()
        try:
            with self._all_kept():
                yield
        finally:
            done.set()
            looking.join()
            for name in self.variables:
                del self._cloud.variables[name]

    def _look(self, done: threading.Event) -> None:
        while not done.wait(_LOOK_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    self.command_lines.add((process / "cmdline").read_bytes())
                    self._learn((process / "environ").read_bytes())

    @contextmanager
    def _all_kept(self) -> Iterator[None]:
        """The bucket keeps each version of an object for a while, and is then as it was."""
        s3, bucket = self._cloud.aws.s3, self._cloud.aws.bucket
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        try:
            yield
        finally:
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for item in page.get("Versions", []):
                    one = {"Key": item["Key"], "VersionId": item["VersionId"]}
                    if item["VersionId"] != "null":  # that is what was there before
                        answer = s3.get_object(Bucket=bucket, **one)
                        self.written.append((item["Key"], answer["Body"].read()))
                        self.written.append((f"metadata of {item['Key']}", _metadata(answer)))
                    if not item["IsLatest"]:
                        s3.delete_object(Bucket=bucket, **one)
                for item in page.get("DeleteMarkers", []):
                    s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})

    def _learn(self, environ: bytes) -> None:
        """Ask a guest's metadata service for what only the guest may know."""
        endpoint = _ENDPOINT.search(environ)
        if endpoint is None or self.of_role or str(self._cloud.home).encode() not in environ:
            return
        base = f"{endpoint[1].decode().rstrip('/')}/latest"
        ask = Request(
            f"{base}/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        )
        headers = {"X-aws-ec2-metadata-token": _read(ask)}
        role = f"{base}/meta-data/iam/security-credentials/"
        name = _read(Request(role, headers=headers))
        told = json.loads(_read(Request(f"{role}{name}", headers=headers)))
        self.of_role |= {told["AccessKeyId"], told["SecretAccessKey"], told["Token"]}

    def places(self, launched: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        """Everything that a run leaves or shows, with its name."""
        yield from self._objects()
        yield from self._instance(launched["instance_id"])
        for file in self._cloud.home.rglob("*"):
            if file.is_file() and not file.is_symlink() and file.stat().st_size < _LARGEST_OBJECT:
                yield str(file), file.read_bytes()
        for words in (["runs", "--json"], ["logs", "--run", launched["run_id"]], ["cost", "--json"]):
            done = self._cloud.invoke(words[0], "--env", "local", *words[1:])
            yield " ".join(words), (done.stdout + done.stderr).encode()

    def _objects(self) -> Iterator[tuple[str, bytes]]:
        aws = self._cloud.aws
        for page in aws.s3.get_paginator("list_objects_v2").paginate(Bucket=aws.bucket):
            for item in page["Contents"]:
                if item["Size"] < _LARGEST_OBJECT:
                    answer = aws.s3.get_object(Bucket=aws.bucket, Key=item["Key"])
                    yield item["Key"], answer["Body"].read() + _metadata(answer)

    def _instance(self, instance_id: str) -> Iterator[tuple[str, bytes]]:
        ec2 = self._cloud.aws.ec2
        text = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        yield "user data", base64.b64decode(text["UserData"]["Value"])
        yield "console", str(ec2.get_console_output(InstanceId=instance_id).get("Output", "")).encode()
        described = ec2.describe_instances(InstanceIds=[instance_id])
        yield "describe-instances", json.dumps(described, default=str).encode()


def _metadata(answer: Any) -> bytes:
    return json.dumps(answer["Metadata"]).encode()


def _read(request: Request) -> str:
    with urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


def _any_in(hidden: Iterable[str], what: bytes) -> bool:
    return any(form in what for secret in hidden for form in _forms(secret))


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    # Base64 of a longer text has it at one of three offsets; the ends mix with what stands beside.
    for offset in range(3):
        yield base64.b64encode(bytes(offset) + secret.encode())[4:-4]
