"""Fixtures for what runs on the instance: a fake S3 and a wrapper that runs as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .fakes import FakeS3, serve_s3

REPOSITORY = Path(__file__).resolve().parents[3]
RUN_ID = "2025-01-15-143022"
BUCKET = "bucket"
STATE_KEY = f"{BUCKET}/dev/system-state.json"


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    with serve_s3() as fake:
        yield fake


@pytest.fixture
def s3_client(s3: FakeS3) -> Iterator[Any]:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3.url,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    yield client
    client.close()


def state_body(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "run_id": RUN_ID,
        "environment": "dev",
        "status": "training",
        "current_step": "training",
        "instance_id": "i-0123456789abcdef0",
        "instance_type": "g4dn.2xlarge",
        "s3_prefix": f"s3://{BUCKET}/dev/{RUN_ID}/",
        "timestamps": {"start": "2025-01-15T14:30:22Z", "last_update": "2025-01-15T14:30:22Z"},
        "training_config": {},
        "error_message": None,
        "pid": None,
        "control": {"revision": 4, "writer": "x", "deadline": "2025-01-15T20:30:22Z", "attempt": 1},
    }
    return {**body, **changes}


def put_state(s3: FakeS3, **changes: Any) -> None:
    with s3.lock:
        s3.objects[STATE_KEY] = json.dumps(state_body(**changes)).encode()


def get_state(s3: FakeS3) -> dict[str, Any]:
    with s3.lock:
        body: dict[str, Any] = json.loads(s3.objects[STATE_KEY])
    return body


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `condition` holds; a test that waits for ever fails instead."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Rig:
    """One wrapper call: its folder, the child's code, and what came of it."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "the output"

    @property
    def record(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.output / "training.json").read_text())
        return body

    @property
    def log(self) -> str:
        return (self.output / "logs/training.log").read_text()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]

    def write_config(self, **changes: Any) -> Path:
        config = {
            "run_id": RUN_ID,
            "environment": "dev",
            "accelerator": "cpu",
            "trainer": "command",
            "command": ["true"],
            "heartbeat_seconds": 0.1,
            "training_config": {"prediction_length": 64},
            **changes,
        }
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def argv(self, code: str | None, *flags: str, **config: Any) -> list[str]:
        """The wrapper's command line; `code` is the Python text of the child."""
        path = self.write_config(**config)
        script = str(REPOSITORY / "python/training_wrapper.py")
        places = ["--config", str(path), "--data", str(self.folder / "data"), "--output", str(self.output)]
        command = [] if code is None else ["--", sys.executable, "-S", "-c", code]
        return [sys.executable, script, *places, *flags, *command]

    def start(
        self, code: str | None, *flags: str, s3: FakeS3 | None = None, **config: Any
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, **(s3.environment() if s3 is not None else {})}
        environment.pop("PYTHONPATH", None)
        if s3 is not None:
            flags = ("--bucket", BUCKET, *flags)
        return subprocess.Popen(
            self.argv(code, *flags, **config),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str | None, *flags: str, **config: Any) -> tuple[int, str, str]:
        process = self.start(code, *flags, **config)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err

    def wait_for_line(self, text: str) -> None:
        """Wait until the child has said `text`, so that a signal finds it where the test wants it."""
        log = self.output / "logs/training.log"
        wait_for(lambda: log.exists() and text in log.read_text())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    (tmp_path / "data").mkdir()
    return Rig(tmp_path)
