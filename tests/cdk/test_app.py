"""The app as the CDK CLI runs it, and what CloudFormation's own linter thinks of the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint_all

REPO = Path(__file__).resolve().parents[2]


def run_app(out: Path, **context: str) -> subprocess.CompletedProcess[str]:
    """Run cdk/app.py as the CLI does: context and output folder come by environment variable.

    No credentials, no region, and every proxy leads nowhere: a synthesis that asked AWS would fail.
    """
    environment = {
        "PATH": "/nonexistent",
        "HOME": str(out),
        "JSII_NODE": os.environ["JSII_NODE"],
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(REPO / ".chronos" / "jsii"),
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CDK_OUTDIR": str(out / "cdk.out"),
        "CDK_CONTEXT_JSON": json.dumps(context),
    }
    return subprocess.run(
        [sys.executable, "cdk/app.py"], cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )


def test_the_app_synthesizes_one_stack_without_assets_or_any_call(tmp_path: Path) -> None:
    result = run_app(tmp_path, environments="local", availability_zones="2")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assembly = json.loads((tmp_path / "cdk.out" / "manifest.json").read_text())
    assert "missing" not in assembly, "a lookup would be listed here"
    stacks = {k for k, v in assembly["artifacts"].items() if v["type"] == "aws:cloudformation:stack"}
    assert stacks == {"ChronosTraining"}
    template = json.loads((tmp_path / "cdk.out" / "ChronosTraining.template.json").read_text())
    kinds = [resource["Type"] for resource in template["Resources"].values()]
    assert kinds.count("AWS::EC2::Subnet") == 2
    assert "AWS::CDK::Metadata" not in kinds
    assert not list((tmp_path / "cdk.out").glob("asset.*"))
    assert not (REPO / "cdk.context.json").exists()


def test_a_bad_context_value_is_one_line_on_stderr(tmp_path: Path) -> None:
    result = run_app(tmp_path, environments="x;rm -rf ~")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(
        "cdk/app.py: context environments: 'x;rm -rf ~' is not an environment name"
    )
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "cdk.out" / "ChronosTraining.template.json").exists()


def test_the_app_stays_small() -> None:
    assert len((REPO / "cdk" / "app.py").read_text().splitlines()) <= 40


def problems(template: dict[str, Any]) -> list[str]:
    """Return cfn-lint's errors and warnings; its remarks (I...) are off by default there too."""
    return [str(match) for match in lint_all(json.dumps(template)) if match.rule.id[0] in "EW"]


@pytest.mark.parametrize("which", ["default_template", "custom_template"])
def test_the_template_passes_cfn_lint(which: str, request: pytest.FixtureRequest) -> None:
    template: dict[str, Any] = request.getfixturevalue(which)
    assert problems(template) == []


def test_cfn_lint_would_find_something(default_template: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(default_template))
    broken["Resources"]["Extra"] = {"Type": "AWS::S3::Bucket", "Properties": {"BuckName": "x"}}
    assert problems(broken)
