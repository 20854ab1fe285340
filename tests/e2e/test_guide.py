"""docs/cdk-implementation.md is true: its tasks exist, and its AWS commands do what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chronos_ec2.workstation.settings import REPOSITORY, load_settings

from .conftest import Cloud

GUIDE = (REPOSITORY / "docs" / "cdk-implementation.md").read_text()
COMMANDS = [
    line.partition("   #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def commands(start: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(start)]


def test_every_command_is_a_task_or_one_of_the_aws_cli() -> None:
    known = ("invoke ", "aws ", "policy=$(aws ")
    assert [command for command in COMMANDS if not command.startswith(known)] == []
    assert len(commands("invoke ")) >= 6 and len(commands("aws ")) >= 5


def test_every_task_in_it_takes_the_flags_that_it_is_given() -> None:
    words = [command.split()[1:] for command in commands("invoke ")]
    script = "import sys, tasks; from invoke.parser import Parser\n" + (
        "contexts = tasks.ns.to_contexts()\n"
        "[Parser(contexts=contexts).parse_argv(line.split()) for line in sys.stdin]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        input="\n".join(" ".join(line) for line in words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_its_links_lead_somewhere_and_its_settings_are_settings() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (REPOSITORY / "docs" / target).exists(), target
    settings = load_settings("dev", variables={})
    for name in (
        "availability_zones",
        "log_retention_days",
        "glacier_after_days",
        "notify_email",
        "alarm_hours",
    ):
        assert f"`{name}`" in GUIDE and hasattr(settings, name)
    for path in re.findall(r"`(tests/[\w/.]+)`", GUIDE):
        assert (REPOSITORY / path).exists(), path


def test_its_aws_commands_do_what_it_says(cloud: Cloud, tmp_path: Path) -> None:
    iam, s3 = cloud.aws.client("iam"), cloud.aws.s3
    iam.create_user(UserName="NAME")
    s3.create_bucket(Bucket="guide-old-bucket")
    s3.put_object(Bucket="guide-old-bucket", Key="dev/x/models/model.pkl", Body=b"x")
    *first, detach, remove = [*commands("policy="), *commands("aws ")]
    assert "detach-user-policy" in detach and "rb --force" in remove
    printed = shell(cloud, tmp_path, first)
    attached = iam.list_attached_user_policies(UserName="NAME")["AttachedPolicies"]
    assert [one["PolicyName"] for one in attached] == ["ChronosTrainingLauncher"]
    assert "_COMPLETE" in printed and "AWS::Scheduler::ScheduleGroup" in printed
    printed = shell(cloud, tmp_path, [first[0], detach, remove.replace("BUCKET", "guide-old-bucket")])
    assert iam.list_attached_user_policies(UserName="NAME")["AttachedPolicies"] == []
    assert "remove_bucket: guide-old-bucket" in printed


def shell(cloud: Cloud, folder: Path, lines: list[str]) -> str:
    """Type lines into one shell that the embedded AWS's variables were given to."""
    exports = cloud.invoke("local.env").stdout
    path = f"{Path(sys.executable).parent}:{cloud.variables['PATH']}"
    done = subprocess.run(
        ["bash", "-euxc", "\n".join([exports, *lines])],
        cwd=folder,
        env={**cloud.variables, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{done.stderr}\n{done.stdout}")
    return done.stdout
