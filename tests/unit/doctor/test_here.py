"""This machine: programs, packages, the CDK; and who calls AWS from it, where and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from chronos_ec2.errors import LocalCloudDown, ToolMissing
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Level
from chronos_ec2.workstation.doctor.tools import Printed, installed_packages, run_program

from .case import Case, as_is, verify
from .fake_aws import refusal
from .world import ARN, World

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
SET_UP = "./invokew setup"
SET_CLOCK = "sudo timedatectl set-ntp true (macOS: sudo sntp -sS time.apple.com)"


def prints(program: str, code: int, out: str, err: str = "") -> Callable[[World], object]:
    return lambda world: world.programs.update({program: Printed(code, out, err)})


def lacks(*programs: str) -> Callable[[World], object]:
    return lambda world: world.missing.update(programs)


def packages(**changes: str | None) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        for name, version in changes.items():
            if version is None:
                del world.packages[name]
            else:
                world.packages[name] = version

    return arrange


def no_node_modules(world: World) -> None:
    def missing(package: str, program: str) -> Path:
        raise ToolMissing(f"{package} is not in node_modules: run ./invokew setup")

    world.node_modules = missing


def old_cdk(world: World) -> None:
    root = (
        Path(__file__).parent / "fixtures" / "old_cdk"
    )  # its package.json names another version than the lock
    world.node_modules = lambda package, program: root / "bin" / program


def caller(answer: Any) -> Callable[[World], object]:
    return lambda world: world.plan.update({("sts", "get_caller_identity"): answer})


def root_user(world: World) -> None:
    world.plan["sts", "get_caller_identity"]["Arn"] = "arn:aws:iam::123456789012:root"


def clock_ahead(seconds: float) -> Callable[[World], object]:
    return lambda world: setattr(world, "clock_ahead_seconds", seconds)


def profile(world: World) -> None:
    world.set(aws_profile="work")
    world.plan["sts", "get_caller_identity"] = refusal("ExpiredToken")


def with_region(answer: Any) -> Callable[[World], object]:
    return lambda world: world.plan.update({("ec2", "describe_regions"): answer})


NO_CREDENTIALS = NoCredentialsError()
UNREACHABLE = EndpointConnectionError(endpoint_url="https://sts.us-east-9.amazonaws.com")
EMBEDDED_DOWN = LocalCloudDown("the embedded AWS is not running: start it with invoke local.start")
LOGIN = "aws configure (AWS CLI version 2 also has aws login, aws sso login)"
CASES = [
    Case("programs", "all there", as_is, OK, "bash 5.2, git, jq, sha256sum, curl"),
    Case(
        "programs",
        "two missing",
        lacks("jq", "sha256sum", "shasum"),
        ERROR,
        "not installed: jq, sha256sum",
        "sudo apt-get install jq coreutils (macOS: brew install jq coreutils)",
    ),
    Case(
        "programs",
        "the Bash of macOS",
        prints("bash", 0, "3.2\n"),
        ERROR,
        "Bash 3.2 is too old",
        "brew install bash",
    ),
    Case(
        "programs",
        "a Bash that says nothing",
        prints("bash", 1, ""),
        ERROR,
        "Bash ? is too",
        "brew install bash",
    ),
    Case("programs", "the oldest Bash that will do", prints("bash", 0, "4.4\n"), OK, "bash 4.4, git"),
    Case("aws command", "new enough", as_is, OK, "aws-cli/1.46.3, with conditional CopyObject"),
    Case(
        "aws command",
        "not there",
        prints("aws s3api", 127, "", "aws is not installed"),
        ERROR,
        "the aws command does not run: aws is not installed",
        SET_UP,
    ),
    Case(
        "aws command",
        "too old",
        prints("aws s3api", 0, '{"IfMatch": ""}'),
        ERROR,
        "two launches could win",
        SET_UP,
    ),
    Case("aws command", "printing no JSON", prints("aws s3api", 0, "hello"), ERROR, "does not know", SET_UP),
    Case("packages", "as locked", as_is, OK, "packages as in requirements/dev.lock"),
    Case("packages", "another build of one", packages(torch="2.13.0+cpu"), OK, "as in requirements/dev.lock"),
    Case("packages", "missing", packages(boto3=None, moto=None), ERROR, "are missing: boto3, moto", SET_UP),
    Case(
        "packages",
        "many missing",
        packages(boto3=None, botocore=None, click=None, moto=None, mypy=None),
        ERROR,
        "are missing: boto3, botocore, click, moto and 1 more",
        SET_UP,
    ),
    Case("packages", "another version", packages(boto3="1.0"), WARNING, "boto3 1.0 for 1.", SET_UP),
    Case("cdk", "as locked", as_is, OK, "node v24.1.0, aws-cdk 2."),
    Case("cdk", "not installed", no_node_modules, ERROR, "aws-cdk is not in node_modules", SET_UP),
    Case("cdk", "node broken", prints("node", 1, "", "no libstdc++"), ERROR, "not run: no libstdc++", SET_UP),
    Case("cdk", "another version", old_cdk, WARNING, "aws-cdk is 2.0.1, package-lock.json says 2.", SET_UP),
    Case("credentials", "there", as_is, OK, ARN),
    Case(
        "credentials",
        "of the root user",
        root_user,
        WARNING,
        "the account's root user",
        "aws configure (keys of an IAM user; AWS CLI version 2 also has aws configure sso)",
    ),
    Case(
        "credentials",
        "refused, perhaps by a region that is not enabled",
        caller(refusal("InvalidClientTokenId")),
        ERROR,
        "AWS refused the credentials (InvalidClientTokenId)",
        f"{LOGIN}; or aws account enable-region --region-name us-east-1, should us-east-1 not be enabled",
    ),
    Case("credentials", "none", caller(NO_CREDENTIALS), ERROR, "no AWS credentials", LOGIN),
    Case(
        "credentials",
        "expired, of a profile",
        profile,
        ERROR,
        "AWS refused the credentials (ExpiredToken)",
        "aws configure --profile work (AWS CLI version 2 also has aws login --profile work, "
        "aws sso login --profile work)",
    ),
    Case(
        "credentials",
        "embedded AWS down",
        caller(EMBEDDED_DOWN),
        ERROR,
        "is not running",
        "invoke local.start",
    ),
    Case(
        "credentials",
        "AWS out of reach",
        caller(UNREACHABLE),
        ERROR,
        "AWS does not answer",
        "look at the network, and at region (us-east-1) in invoke.yaml",
    ),
    Case("clock", "agrees", clock_ahead(29), OK, "agrees with AWS's"),
    Case("clock", "off by half a minute", clock_ahead(30), WARNING, "30 s ahead of AWS's", SET_CLOCK),
    Case("clock", "off by a minute", clock_ahead(60), WARNING, "1 min 00 s ahead of AWS's", SET_CLOCK),
    Case("clock", "off by 5 minutes", clock_ahead(-300), ERROR, "5 min 00 s behind AWS's", SET_CLOCK),
    Case(
        "clock",
        "so far off that AWS refuses",
        caller(refusal("SignatureDoesNotMatch", date="Mon, 23 Nov 2026 20:30:00 GMT")),
        ERROR,
        "2 h 00 min behind",
        SET_CLOCK,
    ),
    Case("clock", "no date", caller({"Arn": ARN}), WARNING, "no date", "date -u (look at it)"),
    Case("region", "open", as_is, OK, "us-east-1"),
    Case(
        "region",
        "not enabled",
        with_region({"Regions": [{"OptInStatus": "not-opted-in"}]}),
        ERROR,
        "us-east-1 is not enabled for this account",
        "aws account enable-region --region-name us-east-1",
    ),
    Case(
        "region",
        "not there",
        with_region(refusal("InvalidParameterValue", "Invalid region provided")),
        ERROR,
        "us-east-1: Invalid region provided",
        "set region in invoke.yaml",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_look_at_this_machine_and_its_caller(case: Case) -> None:
    verify(case)


def test_without_an_answer_there_is_no_clock_to_compare_with() -> None:
    world = World()
    world.plan["sts", "get_caller_identity"] = NO_CREDENTIALS
    reports = {report.check: report for report in world.round()}
    assert reports["clock"].because == "credentials"


def test_a_client_that_cannot_be_made_is_a_matter_of_credentials() -> None:
    def connect(service: str) -> Any:
        raise EMBEDDED_DOWN

    from chronos_ec2.workstation.doctor import account

    found = account.credentials(Facts(World().settings, connect))
    assert (found[0].level, found[0].advice) == (ERROR, "invoke local.start")


def test_programs_are_run_as_they_are(tmp_path: Path) -> None:
    assert run_program(["bash", "-c", "echo out; echo err >&2; exit 3"], None) == Printed(3, "out\n", "err\n")
    assert run_program(["no-such-program-here"], None).code == 127
    assert run_program([str(tmp_path)], None).code == 126


def test_the_installed_packages_are_read_by_their_normal_names() -> None:
    found = installed_packages()
    assert found["boto3"]
    assert all(name == name.lower() and "_" not in name for name in found)
