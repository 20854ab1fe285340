"""Launches that are refused: each with a message, an exit code of its own, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from chronos_ec2.exit_codes import ExitCode

from .conftest import Cloud


def test_without_the_embedded_aws(tmp_path: Path) -> None:
    nowhere = Cloud(
        tmp_path, {"CHRONOS_LOCAL_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    done = nowhere.invoke("launch", "--env", "local")
    assert done.returncode == ExitCode.LOCAL_CLOUD_DOWN
    assert "invoke local.start" in done.stderr


def test_without_credentials(tmp_path: Path) -> None:
    bare = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    done = Cloud(tmp_path, bare).invoke("launch", "--env", "dev")
    assert done.returncode == ExitCode.NO_CREDENTIALS, done.stderr
    assert "aws configure" in done.stderr


def test_before_the_stack_is_deployed(tmp_path: Path, started_cloud: Cloud) -> None:
    elsewhere = started_cloud.invoke("launch", "--env", "local", "--set", "region=eu-west-1")
    assert elsewhere.returncode == ExitCode.NOT_DEPLOYED, elsewhere.stderr
    assert "invoke deploy" in elsewhere.stderr


def doctor_lines(cloud: Cloud, code: ExitCode, *words: str) -> dict[str, dict[str, str]]:
    """What `invoke doctor` finds wrong, by check."""
    done = cloud.invoke("doctor", "--env", "local", "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    found = json.loads(done.stdout)["findings"]
    return {one["check"]: one for one in found if one["level"] != "ok"}


def test_the_doctor_before_the_stack_is_deployed(
    started_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started_cloud, "launcher", {})  # whose policy comes with the stack, for its region
    wrong = doctor_lines(started_cloud, ExitCode.NOT_READY, "--set", "region=eu-west-1")
    assert {name: one["advice"] for name, one in wrong.items()} == {"exports": "invoke deploy --env local"}


def test_the_doctor_before_and_after_the_upload(cloud: Cloud) -> None:
    assert doctor_lines(cloud, ExitCode.OK) == {}
    aws, kept = cloud.aws, {}
    for name in ("scripts/MANIFEST.sha256", "python-env/MANIFEST.json", "training-data/MANIFEST.json"):
        key = f"cached-datasets/{name}"
        kept[key] = aws.s3.get_object(Bucket=aws.bucket, Key=key)["Body"].read()
        aws.s3.delete_object(Bucket=aws.bucket, Key=key)
    try:
        wrong = doctor_lines(cloud, ExitCode.NOT_READY)
    finally:
        for key, body in kept.items():
            aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=body)
    assert {name: one["advice"] for name, one in wrong.items()} == {
        "scripts": "invoke upload --env local",
        "environment": "invoke build-env --env local && invoke upload --env local",
        "data": "invoke upload --env local --data DIR",
    }
    assert cloud.keys("logs/doctor/") == set()
    cloud.assert_nothing_left()


def test_an_environment_that_is_no_name(cloud: Cloud) -> None:
    name, canary = "x;rm -rf ~", cloud.home / "canary"
    canary.write_text("alive")
    for done in (
        cloud.invoke("launch", f"--env={name}"),
        cloud.script("launch_training.sh", "--env", name),
        cloud.invoke("kill", f"--env={name}", "--yes"),
    ):
        assert done.returncode == ExitCode.SETTINGS_INVALID, done.stderr
        assert "Traceback" not in done.stderr
    assert canary.read_text() == "alive"
    cloud.assert_nothing_left()


def test_a_bucket_that_cannot_be_written(cloud: Cloud) -> None:
    aws = cloud.aws
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{aws.bucket}/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    aws.s3.put_bucket_policy(Bucket=aws.bucket, Policy=json.dumps(policy))
    try:
        done = cloud.invoke("launch", "--env", "local")
    finally:
        aws.s3.delete_bucket_policy(Bucket=aws.bucket)
    assert done.returncode == ExitCode.S3_DENIED, done.stderr
    assert "bucket policy" in done.stderr
    cloud.assert_nothing_left()


def test_scripts_work_without_invoke(cloud: Cloud) -> None:
    for name in ("launch_training.sh", "kill_training.sh", "bootstrap.sh"):
        helped = cloud.script(name, "--help")
        assert helped.returncode == 0 and "Usage:" in helped.stdout, helped.stderr
    planned = cloud.script("launch_training.sh", "--env", "local", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "aws ec2 run-instances" in planned.stdout
    cloud.assert_nothing_left()


def test_bootstrap_refuses_to_run_here(cloud: Cloud, tmp_path: Path) -> None:
    rendered = cloud.invoke("render", "--env", "local").stdout
    canary = tmp_path / "bin" / "shutdown"
    canary.parent.mkdir()
    canary.write_text(f"#!/bin/sh\ntouch {tmp_path}/powered-off\n")
    canary.chmod(0o755)
    script = tmp_path / "user_data.sh"
    script.write_text(rendered)
    path = f"{canary.parent}:{cloud.variables['PATH']}"
    done = cloud.script("bootstrap.sh", PATH=path)
    assert done.returncode == ExitCode.USAGE, done.stderr
    ran = subprocess.run(
        ["bash", str(script)], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == ExitCode.NOT_AN_INSTANCE, ran.stderr
    assert not (tmp_path / "powered-off").exists()
