"""The launch ladder's own script against pools without room: the real AWS CLI, real codes, one instance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.local_cloud import control
from chronos_ec2.workstation.pools import ladder
from chronos_ec2.workstation.settings import REPOSITORY, load_settings

from .conftest import AMI

PROFILE = "LadderProfile"
CLIMB = f"""
set -Eeuo pipefail
export LAUNCHER_PID=$$
source {REPOSITORY}/shell/lib/ladder.sh
environment=dev bucket=none instance_id='' handed_over=false problem=''
write_launch_files() {{ :; }}
status=0
climb_ladder || status=$?
jq -n --arg id "$instance_id" --arg pool "$(pool_words)" --argjson attempts "$LADDER_ATTEMPTS" \\
  '{{id: $id, pool: $pool, errors: [$attempts[].error | split(":")[0]]}}'
exit "$status"
"""
# Stands for `aws`: lets EC2 accept the instance, and its answer be heard by nobody.
KILLED = f"""#!/usr/bin/env bash
{Path(sys.executable).parent}/aws "$@"
if [[ " $* " == *' run-instances '* ]]; then kill -KILL "$LAUNCHER_PID"; fi
"""


@pytest.fixture(scope="module")
def places(cloud: Any) -> dict[str, Any]:
    """What a launch knows of its stack."""
    cloud.client("iam").create_instance_profile(InstanceProfileName=PROFILE)
    subnets = {one["AvailabilityZone"]: one["SubnetId"] for one in cloud.ec2.describe_subnets()["Subnets"]}
    group = cloud.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    zones = ("us-east-1a", "us-east-1b")
    return {
        "subnets": [{"subnet_id": subnets[zone], "zone": zone} for zone in zones],
        "exports": {"SecurityGroupId": group, "InstanceProfileName": PROFILE},
    }


@pytest.fixture
def climb(cloud: Any, places: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Climbs the ladder of a run, from a folder made for its first launcher."""
    (tmp_path / "user_data.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.json").write_text("{}")
    facts = {"ami": {"id": AMI, "root_device": "/dev/sda1"}}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(
        run_id: str, first_on_path: Path | None = None, **overrides: str
    ) -> subprocess.CompletedProcess[str]:
        settings = load_settings("dev", overrides, variables={})
        (tmp_path / "pools.json").write_text(json.dumps(ladder(settings, run_id, places["subnets"])))
        known = {
            "settings": json.dumps(
                {key: getattr(settings, key) for key in ("volume_gb", "spot_max_price", "market")}
                | {"wait_for_capacity_minutes": 0}
            ),
            "exports": json.dumps(places["exports"]),
            "work": str(tmp_path),
            "run_id": run_id,
            "PATH": f"{first_on_path}:{path}" if first_on_path else path,
        }
        return subprocess.run(
            ["bash", "-c", CLIMB],
            env={**control.aws_environment(cloud.endpoint), **known, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    yield run
    (cloud.home / "capacity.json").unlink(missing_ok=True)


def instances_of(cloud: Any, run_id: str) -> list[dict[str, Any]]:
    found = cloud.ec2.describe_instances(Filters=[{"Name": "tag:RunId", "Values": [run_id]}])
    return [one for group in found["Reservations"] for one in group["Instances"]]


def test_pools_that_lack_something_at_once_or_at_the_start_lead_to_one_that_has_it(
    cloud: Any, climb: Callable[..., Any]
) -> None:
    rules = [
        {"zone": "us-east-1a", "market": "spot", "error": "InsufficientInstanceCapacity"},
        {"zone": "us-east-1b", "market": "spot", "state_reason": "Server.InsufficientInstanceCapacity"},
    ]
    (cloud.home / "capacity.json").write_text(json.dumps(rules))
    done = climb("2025-01-15-143022", market="spot-then-on-demand", spot_max_price="0.5")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["pool"] == "g4dn.2xlarge us-east-1a on-demand"
    assert said["errors"] == ["InsufficientInstanceCapacity", "Server.InsufficientInstanceCapacity"]
    lost, won = sorted(
        instances_of(cloud, "2025-01-15-143022"), key=lambda one: one["InstanceId"] == said["id"]
    )
    assert (lost["State"]["Name"], lost["InstanceLifecycle"]) == ("terminated", "spot")
    assert won["Placement"]["AvailabilityZone"] == "us-east-1a"
    cloud.ec2.terminate_instances(InstanceIds=[won["InstanceId"]])


def test_a_launcher_that_is_killed_when_ec2_has_accepted_and_its_successor_have_one_instance(
    cloud: Any, climb: Callable[..., Any], tmp_path: Path
) -> None:
    fakes = tmp_path / "bin"
    fakes.mkdir()
    (fakes / "aws").write_text(KILLED)
    (fakes / "aws").chmod(0o755)
    run_id = "2025-01-15-150000"
    assert climb(run_id, fakes).returncode == -9
    (first,) = instances_of(cloud, run_id)
    done = climb(run_id)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == first["InstanceId"]
    assert len(instances_of(cloud, run_id)) == 1
    cloud.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
