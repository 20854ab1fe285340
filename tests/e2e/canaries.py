"""Secrets planted on the laptop while a run is launched and followed; everywhere that one could come up."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import Cloud

_LARGEST_OBJECT = 20 * 2**20
_LOOK_SECONDS = 0.5
# What a role's credentials look like: an instance has such, and writes them nowhere.
_ROLE_KEY = re.compile(rb"\bASIA[0-9A-Z]{12,}\b")


class Canaries:
    """The planted secrets, and whose command lines they were seen in."""

    def __init__(self, cloud: Cloud) -> None:
        sung = secrets.token_hex(12)
        self.variables = {
            name: f"canary-{name.lower()}-{sung}"
            for name in ("HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN", "DATABASE_URL", "CHRONOS_CANARY_TOKEN")
        }
        # A setting that is for the deployment alone.
        self.variables["CHRONOS_NOTIFY_EMAIL"] = f"canary-{sung}@example.org"
        self._secrets = [*self.variables.values(), cloud.launcher["AWS_SECRET_ACCESS_KEY"]]
        self._cloud = cloud
        self.in_command_lines: set[str] = set()
        self.command_lines_seen = 0

    def found_in(self, what: bytes) -> bool:
        """Whether a secret stands there, as it is or as base64 has it."""
        return any(form in what for secret in self._secrets for form in _forms(secret))

    @contextmanager
    def planted(self) -> Iterator[None]:
        """In every variable that a task gets; meanwhile all command lines of this machine are looked at."""
        self._cloud.variables.update(self.variables)
        done = threading.Event()
        looking = threading.Thread(target=self._look, args=(done,), daemon=True)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()
            for name in self.variables:
                del self._cloud.variables[name]

    def _look(self, done: threading.Event) -> None:
        while not done.wait(_LOOK_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                self.command_lines_seen += 1
                if self.found_in(line):
                    self.in_command_lines.add(line.decode(errors="replace"))

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
                    yield item["Key"], answer["Body"].read() + json.dumps(answer["Metadata"]).encode()

    def _instance(self, instance_id: str) -> Iterator[tuple[str, bytes]]:
        ec2 = self._cloud.aws.ec2
        text = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        yield "user data", base64.b64decode(text["UserData"]["Value"])
        yield "console", str(ec2.get_console_output(InstanceId=instance_id).get("Output", "")).encode()
        described = ec2.describe_instances(InstanceIds=[instance_id])
        yield "describe-instances", json.dumps(described, default=str).encode()


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    # Base64 of a longer text has it at one of three offsets; the ends mix with what stands beside.
    for offset in range(3):
        yield base64.b64encode(bytes(offset) + secret.encode())[4:-4]


def role_key_in(what: bytes) -> bool:
    """Whether the id of a role's temporary key stands there."""
    return _ROLE_KEY.search(what) is not None
