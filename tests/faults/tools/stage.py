"""Runs a document's commands: tasks in this process, scripts on the lab's fast programs, AWS embedded."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from invoke.collection import Collection
from invoke.program import Program

from chronos_ec2.workstation import commands
from chronos_ec2.workstation.aws import Aws
from chronos_ec2.workstation.settings import REPOSITORY, Settings
from tools.document import Command
from tools.lab import ENVIRONMENT, Lab

RUN: Final = "2025-01-15-143022"


class Stage:
    """A lab, a folder to work in, and a user who types what a document says.

    Attributes:
        names: words of the document, and what they are in this scene.
        launches: whether a launch acts; otherwise it is made with --dry-run, which asks and plans as much.
    """

    def __init__(self, lab: Lab, folder: Path, patch: pytest.MonkeyPatch, tasks: ModuleType) -> None:
        self.lab, self.folder, self.patch, self._tasks = lab, folder, patch, tasks
        self.names: dict[str, str] = {}
        self.launches = False
        for name in list(os.environ):
            if name.startswith(("AWS_", "CHRONOS_")):
                patch.delenv(name)
        patch.setenv("CHRONOS_LOCAL_HOME", str(lab.home))
        patch.setenv("CHRONOS_KILL_GRACE_SECONDS", "0")
        patch.chdir(folder)
        patch.setattr(tasks, "STATE_FOLDER", folder / "built")
        for module in ("material", "looking"):
            patch.setattr(f"verbs.{module}.STATE_FOLDER", folder / "built")
        self._replace_slow_programs()
        self._keep_clients()

    def _replace_slow_programs(self) -> None:
        """`cdk` and the build of an environment do nothing here; tests/e2e runs both as they are."""
        python = str(self.lab.programs.python)
        variables: Callable[[Settings], dict[str, str]] = commands.aws_variables

        def fast(settings: Settings) -> dict[str, str]:
            return {**variables(settings), "CHRONOS_PYTHON": python}

        def module(name: str, *words: str) -> list[str]:
            argv = [python, "-m", f"chronos_ec2.{name}", *words]
            return ["true"] if name == "workstation.environment_build" else argv

        def script(name: str, *words: Any) -> list[str]:
            return [str(self.lab.shell / name), *as_typed(name, *words)[1:]]

        as_typed = commands.script_command
        path = self.lab.variables()["PATH"]
        self.patch.setattr(commands, "aws_variables", fast)
        self.patch.setattr(commands, "base_environment", lambda: {**os.environ, "PATH": path})
        self.patch.setattr(commands, "module_command", module)
        self.patch.setattr(commands, "script_command", script)
        self.patch.setattr(commands, "cdk_command", lambda *words: ["true"])

    def _keep_clients(self) -> None:
        """A client takes longer to make than a command takes with it."""
        made: dict[tuple[Any, ...], Any] = self.lab.__dict__.setdefault("clients_of_the_stage", {})
        make = Aws.client

        def client(aws: Aws, service: str, **more: Any) -> Any:
            key = (os.environ["CHRONOS_LOCAL_HOME"], service, aws.settings.region, *sorted(more.items()))
            if key not in made:
                made[key] = make(aws, service, **more)
            return made[key]

        self.patch.setattr(Aws, "client", client)

    def run(self, command: Command, capture: pytest.CaptureFixture[str]) -> tuple[int, str]:
        """Type a command; its exit code and all that it printed."""
        capture.readouterr()
        text = self.local(command.text)
        words = shlex.split(text)
        if words[1:2] == ["launch"] and not self.launches:
            words.append("--dry-run")
        code = self._task(words) if command.is_task else self._shell(text)
        printed = capture.readouterr()
        return code, printed.out + printed.err

    def local(self, text: str) -> str:
        """A text of the document in the words of this scene."""
        for name, value in {"dev": ENVIRONMENT, **self.names}.items():
            text = re.sub(rf"(?<![\w-]){name}(?![\w-])", value, text)
        return text

    def _task(self, words: list[str]) -> int:
        program = Program(namespace=Collection.from_module(self._tasks))
        try:
            program.run(words)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def _shell(self, text: str) -> int:
        ended = self.lab.start(["bash", "-euo", "pipefail", "-c", text]).wait()
        print(ended.stdout + ended.stderr)
        return ended.status

    # -- scenes -----------------------------------------------------------------------------------

    def put(self, key: str, body: bytes | str | dict[str, Any]) -> None:
        """An object under the environment's prefix."""
        text = json.dumps(body) if isinstance(body, dict) else body
        self.lab.aws.s3.put_object(Bucket=self.lab.bucket, Key=f"{ENVIRONMENT}/{key}", Body=text)

    def live(self, status: str = "training", step: str | None = None) -> str:
        """A run that holds the environment, and its machine; the machine's id."""
        instance = self.lab.machine(RUN)
        body = self.lab.claim(RUN, status=status, instance_id=instance)
        self.put("system-state.json", {**body, "current_step": step or status})
        self.put(f"{RUN}/logs/bootstrap.log", "phase training\n")
        return instance

    def ended(self, outcome: str, step: str | None = None, **more: Any) -> None:
        """A run with an end."""
        self.lab.claim(RUN)
        record = self.lab.record(RUN) or {}
        end = {"outcome": outcome, "failed_step": step, "error": "the reason"}
        self.put(f"{RUN}/run.json", {**record, **end, "ended_at": record["started_at"], **more})
        self.put(f"{RUN}/logs/bootstrap.log", f"phase {step}\nError: the reason\npreflight: FAIL driver\n")
        self.lab.aws.s3.delete_object(Bucket=self.lab.bucket, Key=f"{ENVIRONMENT}/system-state.json")

    def data(self, name: str = "series.parquet", body: bytes | None = None) -> None:
        """The user's own data."""
        (self.folder / "my-data").mkdir(exist_ok=True)
        good = (self.lab.folder / "data" / "series.parquet").read_bytes()
        (self.folder / "my-data" / name).write_bytes(good if body is None else body)

    def built_environment(self) -> None:
        """What `build-env` leaves: the archive that the lab has uploaded."""
        folder = self.folder / "built" / "env" / "instance"
        folder.mkdir(parents=True)
        s3, prefix = self.lab.aws.s3, "cached-datasets/python-env/"
        for item in s3.list_objects_v2(Bucket=self.lab.bucket, Prefix=prefix)["Contents"]:
            body = s3.get_object(Bucket=self.lab.bucket, Key=item["Key"])["Body"].read()
            (folder / item["Key"].removeprefix(prefix)).write_bytes(body)


def load_tasks() -> ModuleType:
    """The repository's tasks.py; `import tasks` could find a package of tests."""
    spec = importlib.util.spec_from_file_location("chronos_tasks", REPOSITORY / "tasks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
