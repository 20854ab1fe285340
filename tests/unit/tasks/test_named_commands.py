"""Documents and messages name only commands that there are, and messages name them in one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.workstation.settings import REPOSITORY

from .conftest import load_tasks

TASKS: dict[str, Any] = {name: load_tasks().ns[name] for name in load_tasks().ns.task_names}
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
PYTHON = sorted(
    file for folder in ("python/chronos_ec2", "verbs", "cdk") for file in (REPOSITORY / folder).rglob("*.py")
)
SHELL = sorted(file for file in (REPOSITORY / "shell").rglob("*") if file.suffix in (".sh", ".jq", ".json"))
OTHER_LANGUAGES = {"tags.`chronos.artifacts` = 'X'"}
"""Strings with backticks that are no message: a filter of MLflow's search."""


def wrong_commands(text: str) -> list[str]:
    """The `invoke` commands in a text that are no task, or have a flag that the task has not."""
    wrong = []
    for name, rest in re.findall(r"(?<![\w/-])(?:\./)?invokew? ([a-z](?:[\w.-]*\w)?)([^\n`|;&)]*)", text):
        if name == "setup":  # invokew's own
            continue
        known = {"help"}
        for argument in TASKS[name].get_arguments() if name in TASKS else ():
            known |= {flag.replace("_", "-").rstrip("-") for flag in argument.names}
        flags = re.findall(r"(?<=\s)--([a-z][\w-]*)", rest)
        if name not in TASKS or not set(flags) <= known:
            wrong.append(f"{name}{rest}")
    return wrong


def code_of(document: str) -> str:
    """What stands between backticks."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document, re.DOTALL))


def strings_of(source: str) -> Iterator[str]:
    """The string literals of a Python source but its docstrings, with X for what an f-string fills in."""
    tree = ast.parse(source)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare | inner:
            yield node.value


def messages_of(file: Path) -> list[str]:
    """What a source may say to somebody, and more."""
    text = file.read_text()
    if file.suffix == ".py":
        return [words for words in strings_of(text) if words not in OTHER_LANGUAGES]
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_command_of_a_document_is_a_task_with_those_flags(document: Path) -> None:
    assert wrong_commands(code_of(document.read_text())) == []


def test_every_command_of_a_message_is_a_task_with_those_flags() -> None:
    said = [words for file in (*PYTHON, *SHELL) for words in messages_of(file)]
    clauses = [clause for words in said for clause in re.split(r"[,:.] | or | and ", words)]
    named = [clause for clause in clauses if "invoke " in clause]
    assert len(named) > 80, "they are found"
    assert [wrong for clause in named for wrong in wrong_commands(clause)] == []


def test_a_message_names_a_command_without_backticks() -> None:
    assert [words for file in PYTHON for words in messages_of(file) if "`" in words] == []


def test_a_wrong_command_is_found() -> None:
    right = 'Type `./invokew demo`, `invoke launch --set seed=1 --dry-run` or `eval "$(invoke local.env)"`.'
    wrong = "```sh\n./invokew launc\ninvoke watch --onze\ninvoke kill --yes  # sure\n```"
    assert wrong_commands(code_of(right)) == []
    assert wrong_commands(code_of(wrong)) == ["launc", "watch --onze"]
    spoken = 'raise Trouble(f"it is {odd}; free it with invoke kil --env {name}.")'
    assert wrong_commands(next(strings_of(spoken))) == ["kil --env X."]
