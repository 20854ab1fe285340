"""shell/lib/prefetch.sh with the real s5cmd, against an embedded S3."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chronos_ec2.local_cloud import control
from chronos_ec2.workstation.settings import REPOSITORY

COUNT = 12
_PREFETCH = """
set -Eeuo pipefail
source "$1/shell/lib/phases.sh"
begin_prefetch "$2"
finish prefetch
"""


@pytest.mark.parametrize(
    "more", [(), ("a file of another day.parquet", "sub/x.parquet")], ids=["same", "more"]
)
def test_what_is_listed_is_fetched_by_one_request_a_file(tmp_path: Path, more: tuple[str, ...]) -> None:
    files = {f"part-{number:04d}.parquet": str(number).encode() for number in range(COUNT)}
    manifest = json.dumps({"files": [{"name": name, "bytes": len(body)} for name, body in files.items()]})
    source, into, counted = tmp_path / "source", tmp_path / "into", tmp_path / "counted"
    for name, body in {**files, **dict.fromkeys(more, b"old"), "MANIFEST.json": manifest.encode()}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    into.mkdir()
    url = control.start(tmp_path / "cloud").endpoint_url
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "CHRONOS_BUCKET": "bucket",
        "CHRONOS_DATASET_SHA256": hashlib.sha256(manifest.encode()).hexdigest(),
        "CHRONOS_S3_REQUESTS": str(counted),
    }
    try:
        s5cmd = ["s5cmd", "--log", "error", "--endpoint-url", url]
        subprocess.run([*s5cmd, "mb", "s3://bucket"], env=variables, check=True)
        to = "s3://bucket/cached-datasets/training-data/"
        subprocess.run([*s5cmd, "cp", f"{source}/", to], env=variables, check=True)
        words = ["bash", "-c", _PREFETCH, "bash", str(REPOSITORY), str(into)]
        subprocess.run(words, env=variables, check=True)
    finally:
        control.stop(tmp_path / "cloud")
    assert {path.name: path.read_bytes() for path in into.rglob("*")} == files
    letters = counted.read_text()
    assert letters.count("G") == (2 * COUNT + 1 if more else COUNT + 1)
    assert letters.count("P") == (0 if more else 1)
