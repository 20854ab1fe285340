"""The rooms of the house and the direction of imports between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "python" / "chronos_ec2"
SHARED = {
    *("data", "errors", "exit_codes", "metrics_log", "report", "start_model", "state", "training_settings"),
    "pieces_digest",
    "words",
}
ALLOWED = {
    "state": {"state", "errors", "exit_codes"},
    "data": {"data", "errors", "exit_codes"},
    "report": {"report", "state", "errors", "exit_codes", "metrics_log", "words"},
    "instance": {"instance", *SHARED},
    "workstation": {"workstation", *SHARED},
    "local_cloud": {"local_cloud", "state", "errors", "exit_codes"},
}
INSTANCE_PACKAGES = {
    *("boto3", "botocore", "chronos_ec2", "jinja2", "numpy", "psutil", "pyarrow", "pynvml", "yaml"),
}
CHRONOS_PACKAGES = {"chronos", "safetensors", "transformers", "torch"}
"""What the training environment holds; all else an instance's code must find in the standard library."""


def imports_of(source: str) -> Iterator[str]:
    """Every module that a source names in an import, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_in(source: str) -> set[str]:
    """The rooms of this package that a source imports from."""
    names = [name.split(".") for name in imports_of(source)]
    return {parts[1] for parts in names if parts[0] == "chronos_ec2" and len(parts) > 1}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(PACKAGE)): found
        for file in files
        if (found := rooms_in(file.read_text()) - ALLOWED[room])
    }
    assert wrong == {}


def test_the_tasks_import_the_workstation_alone() -> None:
    for file in (REPOSITORY / "tasks.py", *(REPOSITORY / "verbs").glob("*.py")):
        assert rooms_in(file.read_text()) <= {"workstation", "errors", "exit_codes"}, file


def test_an_instance_needs_only_its_training_environment() -> None:
    import sys

    files = [
        file for room in ("instance", "state", "data", "report") for file in (PACKAGE / room).rglob("*.py")
    ]
    files += [REPOSITORY / "python" / name for name in ("preflight_check.py", "training_wrapper.py")]
    known = INSTANCE_PACKAGES | set(sys.stdlib_module_names)
    for file in files:
        wanted = {name.split(".")[0] for name in imports_of(file.read_text())}
        heavy = "chronos" in file.parent.name or "hugging_face" in file.name
        more = CHRONOS_PACKAGES if heavy else {"torch"}
        assert wanted - known - more == set(), file


def test_the_check_sees_an_import_that_hides_in_a_function() -> None:
    hidden = "def f():\n    from chronos_ec2.workstation.s3 import head\n"
    assert rooms_in(hidden) == {"workstation"}
    assert rooms_in("from chronos_ec2 import local_cloud") == {"local_cloud"}
