"""Every line that a check can say is said by a case, and every command in an advice exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name

from chronos_ec2.workstation import doctor
from chronos_ec2.workstation.doctor import findings
from chronos_ec2.workstation.quotas import QUOTAS, increase_command
from chronos_ec2.workstation.settings import KEYS, REPOSITORY

from . import test_capacity, test_here, test_inputs, test_stack
from .case import Case
from .fake_aws import operations


def load_tasks() -> dict[str, Any]:
    """The tasks of the repository's tasks.py by their names."""
    spec = importlib.util.spec_from_file_location("chronos_tasks", REPOSITORY / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: module.ns[name] for name in module.ns.task_names}


PACKAGE = Path(doctor.__file__).parent
CASES: list[Case] = [*test_here.CASES, *test_stack.CASES, *test_capacity.CASES, *test_inputs.CASES]
ADVICES = sorted(
    {case.advice for case in CASES if case.advice}
    | {increase_command(quota, 8, "eu-central-1") for quota in QUOTAS}
)
TASKS = load_tasks()
# The launch's own words after a refusal; the tests of the ladder look at them.
OF_LAUNCH = {
    entry.get("advice", "")
    for part in ("kinds", "errors")
    for entry in test_capacity.OF_LAUNCH[part].values()
}
DEEDS = re.compile(r"(set (\w+)|look at|open the link|allow )")
OTHER_PROGRAMS = {"sudo", "brew", "date", "./invokew"}
AWS_BUT_NO_API = {("configure",), ("configure", "sso"), ("configure", "list"), ("sso", "login")}


def commands(advice: str) -> list[list[str]]:
    """The commands in an advice, without the remarks in brackets and the variables before them."""
    bare = re.sub(r"\([^()]*\)", "", advice)
    found = [shlex.split(part) for part in re.split(r"&&|; or ", bare)]
    return [[word for word in words if not re.match(r"[A-Z_]+=", word)] for words in found]


def flags(words: list[str]) -> set[str]:
    return {word.removeprefix("--") for word in words if word.startswith("--")}


def problem_of_invoke(words: list[str]) -> str:
    name, rest = words[1], words[2:]
    if name not in TASKS:
        return f"{name} is no task"
    known = {
        flag.replace("_", "-").rstrip("-") for item in TASKS[name].get_arguments() for flag in item.names
    }
    wrong = flags(rest) - known
    assigned = {rest[at + 1].split("=")[0] for at, word in enumerate(rest) if word == "--set"}
    return ", ".join(sorted(wrong | (assigned - set(KEYS))))


def problem_of_aws(words: list[str]) -> str:
    names = tuple(word for word in words[1:] if not word.startswith("--"))
    if names[:2] in AWS_BUT_NO_API or names[:1] in AWS_BUT_NO_API:
        return ""
    service, operation = names[:2]
    by_name = {
        name.replace("_", "-"): model
        for name, model in operations("s3" if service == "s3api" else service).items()
    }
    if operation not in by_name:
        return f"{service} has no {operation}"
    members = by_name[operation].input_shape.members if by_name[operation].input_shape else {}
    # The CLI's own: short forms of a rule's parts, and what it adds to every command.
    known = {xform_name(name, "-") for name in members} | {"region", "protocol", "port", "cidr"}
    return ", ".join(sorted(flags(words) - known))


def problem_of(advice: str) -> str:
    """What is wrong with an advice; empty when a person can follow it."""
    if advice in OF_LAUNCH:
        return ""
    deed = DEEDS.match(advice)
    if deed:
        return "" if deed[2] is None or deed[2] in KEYS else f"{deed[2]} is no setting"
    for words in commands(advice):
        if words[0] == "invoke":
            wrong = problem_of_invoke(words)
        elif words[0] == "aws":
            wrong = problem_of_aws(words)
        else:
            wrong = "" if words[0] in OTHER_PROGRAMS else f"{words[0]} is no program that is known here"
        if wrong:
            return wrong
    return ""


@pytest.mark.parametrize("advice", ADVICES)
def test_an_advice_can_be_followed(advice: str) -> None:
    assert problem_of(advice) == ""


@pytest.mark.parametrize(
    ("advice", "problem"),
    [
        ("invoke deplot --env dev", "deplot is no task"),
        ("invoke deploy --environment dev", "environment"),
        ("invoke launch --set volume=3 (really)", "volume"),
        ("invoke deploy --env dev && invoke uplode", "uplode is no task"),
        ("aws configure; or aws account enable-regions", "account has no enable-regions"),
        ("aws ec2 create-rout --gateway-id x", "ec2 has no create-rout"),
        ("aws ec2 create-route --gateway x", "gateway"),
        ("set instance_typ for dev", "instance_typ is no setting"),
        ("apt install jq", "apt is no program that is known here"),
    ],
)
def test_a_wrong_advice_is_found(advice: str, problem: str) -> None:
    assert problem_of(advice) == problem


def lines_in_the_source() -> set[tuple[str, int]]:
    """Where a check says ok, warning or error."""
    found = set()
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("ok", "warning", "error"):
                found.add((file.name, called.lineno))
    return found


def test_every_line_that_a_check_can_say_is_said_by_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    said = set()
    look = findings.Finding.__post_init__

    def note(self: findings.Finding) -> None:
        caller = sys._getframe(3)  # past the constructor and ok(), warning() or error()
        said.add((Path(caller.f_code.co_filename).name, caller.f_lineno))
        look(self)

    monkeypatch.setattr(findings.Finding, "__post_init__", note)
    for case in CASES:
        case.findings()
    unsaid = lines_in_the_source() - said
    # The round's own words about what a check raises; test_round.py has them.
    assert {place for place in unsaid if place[0] != "checkup.py"} == set()
