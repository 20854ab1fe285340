"""docs/failure-modes.md is true: its commands print and end as it says, and its table has every exit code."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
from tools.document import Section, lacks, sections
from tools.lab import ENVIRONMENT, Lab
from tools.stage import RUN, Stage, load_tasks

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation.launch_files import run_config
from chronos_ec2.workstation.settings import REPOSITORY

DOCUMENT: Final = (REPOSITORY / "docs" / "failure-modes.md").read_text()
SECTIONS: Final = {section.title: section for section in sections(DOCUMENT)}
BODIES: Final = dict(zip(SECTIONS, re.split(r"^#+ .+$", DOCUMENT, flags=re.MULTILINE)[1:], strict=True))
# What leads to the sections below it, and the table.
NO_FAILURES: Final = ("Failure modes", "Exit codes", "EC2 Launch Failure")
OF_THE_DESIGN: Final = (
    "EC2 Launch Failure",
    "GPU Preflight Failure",
    "Training Failure",
    "Network Failure",
    "Zombie Instance",
)
Scene = Callable[[Stage], Iterator[None] | None]
SCENES: Final[dict[str, Scene]] = {}


def scene(title: str) -> Callable[[Scene], Scene]:
    """Sets the stage for a section: once for the symptom, and, after a `yield`, for what helps."""

    def register(function: Scene) -> Scene:
        SCENES[title] = function
        return function

    return register


@pytest.fixture(scope="session")
def tasks() -> ModuleType:
    return load_tasks()


@pytest.fixture
def stage(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: ModuleType) -> Stage:
    return Stage(lab, tmp_path, monkeypatch, tasks)


@pytest.mark.parametrize("title", [title for title, one in SECTIONS.items() if one.symptoms or one.remedies])
def test_a_section_is_true(title: str, stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    section = SECTIONS[title]
    setting = SCENES[title](stage) if title in SCENES else None
    if setting is not None:
        next(setting)
    _type(section, "symptoms", stage, capfd)
    if setting is not None:
        next(setting, None)
    _type(section, "remedies", stage, capfd)


def _type(section: Section, part: str, stage: Stage, capture: pytest.CaptureFixture[str]) -> None:
    for command in getattr(section, part):
        code, printed = stage.run(command, capture)
        assert code in command.codes, f"{command.text}\nends with {code}:\n{printed}"
        missing = lacks([stage.local(piece) for piece in command.shows], printed)
        assert missing is None, f"{command.text}\ndoes not say {missing!r}:\n{printed}"
        assert "Traceback" not in printed, printed


@pytest.mark.parametrize("title", [title for title in SECTIONS if title not in NO_FAILURES])
def test_a_failure_has_its_symptom_its_cause_and_a_command(title: str) -> None:
    section, body = SECTIONS[title], BODIES[title]
    assert "**You see** " in body or section.symptoms
    assert "**Cause** " in body
    assert section.symptoms or section.remedies


def test_every_scene_has_its_section() -> None:
    assert set(SCENES) <= set(SECTIONS)


def test_the_failure_modes_of_the_design_are_there_by_their_names() -> None:
    assert set(OF_THE_DESIGN) <= set(SECTIONS)


def test_the_table_has_every_exit_code_by_its_name_and_no_other() -> None:
    table = dict(re.findall(r"^\| (\d+) \| ([a-z0-9 ]+) \|", DOCUMENT, re.MULTILINE))
    names = {str(int(code)): name.lower().replace("_", " ") for name, code in ExitCode.__members__.items()}
    assert table == names


def test_every_link_within_the_document_leads_to_a_heading() -> None:
    anchors = {title.lower().replace(" ", "-") for title in SECTIONS}
    assert set(re.findall(r"\(#([\w-]+)\)", DOCUMENT)) <= anchors


def test_a_command_that_is_not_as_the_document_says_is_found() -> None:
    text = "# A\n```console\n$ invoke x  # exit 3 or 4\none … two\n```\n```bash\necho a\necho b\n```\n"
    (section,) = sections(text)
    (symptom,) = section.symptoms
    assert (symptom.text, symptom.codes) == ("invoke x", {3, 4})
    assert lacks(symptom.shows, "so one\n and  two") is None
    assert lacks(symptom.shows, "two one") == "two"
    assert [command.text for command in section.remedies] == ["echo a\necho b"]


# -- scenes -------------------------------------------------------------------------------------------


@scene("Failure modes")
def _(stage: Stage) -> None:
    stage.ended("failed", "training")


@scene("Region or stack")
def _(stage: Stage) -> None:
    stage.patch.setenv("CHRONOS_REGION", "eu-west-1")


@scene("Environment held")
def _(stage: Stage) -> None:
    stage.live(step="step_120")


@scene("Stale claim")
def _(stage: Stage) -> None:
    instance = stage.lab.machine(RUN)
    stage.lab.aws.ec2.terminate_instances(InstanceIds=[instance])
    stage.lab.claim(RUN, status="training", instance_id=instance, heard=utc_now() - timedelta(minutes=20))


@scene("Corrupt state")
def _(stage: Stage) -> None:
    stage.put("system-state.json", '{"half')


@scene("S3 refuses")
def _(stage: Stage) -> Iterator[None]:
    s3, bucket = stage.lab.aws.s3, stage.lab.bucket
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    stage.ended("failed", "training")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    yield
    s3.put_bucket_policy(Bucket=bucket, Policy=policy.replace("Deny", "Allow"))


@scene("Not uploaded")
def _(stage: Stage) -> None:
    stage.data()
    stage.built_environment()


@scene("Data refused")
def _(stage: Stage) -> None:
    stage.data(body=b"no Parquet")
    stage.built_environment()


@scene("Embedded AWS")
def _(stage: Stage) -> Iterator[None]:
    stage.patch.setenv("CHRONOS_LOCAL_HOME", str(stage.folder))
    yield
    stage.patch.setenv("CHRONOS_LOCAL_HOME", str(stage.lab.home))


@scene("No such run")
def _(stage: Stage) -> None:
    stage.ended("succeeded")


@scene("GPU Preflight Failure")
def _(stage: Stage) -> None:
    stage.ended("failed", "gpu_preflight")


@scene("Environment archive")
def _(stage: Stage) -> None:
    stage.built_environment()


@scene("Training Failure")
def _(stage: Stage) -> None:
    stage.ended("failed", "training")


@scene("Stalled training")
def _(stage: Stage) -> None:
    stage.live()


@scene("Idle GPU")
def _(stage: Stage) -> None:
    stage.ended("failed", "training")


@scene("GPU fault")
def _(stage: Stage) -> None:
    stage.ended("failed", "training")


@scene("Spot interruption")
def _(stage: Stage) -> None:
    resumable(stage, "interrupted")


@scene("Deadline")
def _(stage: Stage) -> None:
    resumable(stage, "failed")


@scene("Node lost")
def _(stage: Stage) -> None:
    resumable(stage, "failed", error="node 1 (i-2) is gone", instance={"id": "i-1", "ids": ["i-1", "i-2"]})
    stage.put(f"{RUN}/logs/node-1/bootstrap.log", "phase training\n")


def resumable(stage: Stage, outcome: str, **more: object) -> None:
    """A run that ended in training, behind a checkpoint; the launch that goes on from it acts."""
    stage.launches = True
    folder = f"{RUN}/checkpoints/checkpoint-40"
    config = run_config(stage.lab.aws.settings, RUN)
    stage.ended(outcome, "training", config=config, dataset={"manifest_sha256": digest(stage)}, **more)
    stage.put(f"{folder}/state.npz", "weights")
    facts = {"state.npz": {"bytes": 7, "sha256": "0" * 64}}
    stage.put(f"{folder}/manifest.json", {"format_version": 1, "step": 40, "files": facts})


def digest(stage: Stage) -> str:
    """The digest of the training data's manifest, as a launch sees it."""
    key = "cached-datasets/training-data/MANIFEST.json"
    body = stage.lab.aws.s3.get_object(Bucket=stage.lab.bucket, Key=key)["Body"].read()
    return hashlib.sha256(body).hexdigest()


@scene("Killed")
def _(stage: Stage) -> None:
    stage.ended("killed", "training")


@scene("Network Failure")
def _(stage: Stage) -> None:
    stage.live("data_sync")


@scene("Results upload failed")
def _(stage: Stage) -> None:
    stage.ended("failed", "results_sync")


@scene("Machine lost")
def _(stage: Stage) -> None:
    instance = stage.lab.machine(RUN)
    stage.ended("lost", "training", instance={"id": instance})
    stage.lab.aws.s3.delete_object(Bucket=stage.lab.bucket, Key=f"{ENVIRONMENT}/{RUN}/logs/bootstrap.log")


@scene("Zombie Instance")
def _(stage: Stage) -> None:
    stage.lab.machine(RUN)
    stage.patch.setattr("chronos_ec2.workstation.reap_plan.OWNERLESS_GRACE", timedelta(0))


@scene("A kill that does not end")
def _(stage: Stage) -> None:
    stage.names["i-0123456789abcdef0"] = stage.live()
