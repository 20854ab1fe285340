"""tasks.py: what it says about itself, what it runs, and how its errors reach the shell."""

from __future__ import annotations

import inspect
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from chronos_ec2 import errors
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation import commands
from chronos_ec2.workstation.settings import REPOSITORY, load_settings

from .conftest import INVOKE, load_tasks

Call = Callable[..., subprocess.CompletedProcess[str]]
NAMES = {
    *("deploy", "destroy", "build-env", "sample-data", "upload", "launch", "watch", "kill", "runs", "logs"),
    *("cost", "doctor", "fetch", "render", "demo", "lint", "bats", "pytest", "test", "lock"),
    *("local.start", "local.stop", "local.status", "local.env"),
}
ALL: dict[str, Any] = {name: load_tasks().ns[name] for name in load_tasks().ns.task_names}


# -- what it says about itself ------------------------------------------------------------------------


def test_every_task_that_is_promised_is_there() -> None:
    assert set(ALL) >= NAMES


@pytest.mark.parametrize("name", ALL)
def test_a_task_says_what_it_does_in_one_line(name: str) -> None:
    first = (ALL[name].body.__doc__ or "").strip().splitlines()[0]
    assert first.endswith((".", '".'))
    assert len(first) > 20


@pytest.mark.parametrize("name", ALL)
def test_every_argument_of_a_task_has_its_help(name: str) -> None:
    arguments = set(inspect.signature(ALL[name].body).parameters) - {"c"}
    assert {argument for argument in arguments if not ALL[name].help.get(argument)} == set()


@pytest.mark.parametrize("name", ALL)
def test_every_flag_can_be_parsed(name: str) -> None:
    """A name that clashes with one of Invoke's own, or two with the same letter, fails here."""
    flags = [flag for argument in ALL[name].get_arguments() for flag in argument.names]
    assert len(flags) == len(set(flags))


def test_the_list_is_quick_and_names_every_task(invoke: Call) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = invoke("--list")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < 3, "generous: it takes 0.2 s of a processor's time"
    assert done.returncode == 0
    assert {line.split()[0] for line in done.stdout.splitlines() if re.match(r"  [a-z]", line)} == set(ALL)


def test_the_list_loads_no_heavy_package() -> None:
    heavy = ("boto3", "botocore", "numpy", "pyarrow", "jinja2", "moto", "rich")
    code = f"import sys, tasks; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_help_of_a_task_names_its_flags(invoke: Call) -> None:
    done = invoke("--help", "launch")
    for flag in ("--env", "--set", "--dry-run", "--json"):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("wat",), {"watch"}),
        (("local.st",), {"local.start", "local.stop", "local.status"}),
        (("logs", "--so"), {"--source"}),
    ],
)
def test_the_shell_completes_tasks_and_flags(typed: tuple[str, ...], offered: set[str]) -> None:
    """As the README has it set up, and as Bash calls it when somebody presses the tabulator."""
    words = " ".join(("invoke", *typed))
    code = (
        "source <(invoke --print-completion-script bash)\n"
        f"COMP_WORDS=({words})\n_complete_invoke invoke '{typed[-1]}'\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", code], cwd=REPOSITORY, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == offered, done.stderr


# -- errors -------------------------------------------------------------------------------------------


ENDS = [
    (("launch", "--env", "x;rm -rf ~"), ExitCode.SETTINGS_INVALID, "is not a name"),
    (("launch", "--env="), ExitCode.SETTINGS_INVALID, "is not a name"),
    (("kill", "--env", "logs", "--yes"), ExitCode.SETTINGS_INVALID, "prefix that the bucket itself uses"),
    (("launch", "--set", "max_step=3"), ExitCode.SETTINGS_INVALID, "did you mean 'max_steps'"),
    (("render", "--set", "volume_gb"), ExitCode.SETTINGS_INVALID, "KEY=VALUE"),
    (("runs", "--env", "nowhere"), ExitCode.SETTINGS_INVALID, "is not in invoke.yaml"),
    (("cost", "--env", "local"), ExitCode.LOCAL_CLOUD_DOWN, "invoke local.start"),
    (("runs", "--env", "local"), ExitCode.LOCAL_CLOUD_DOWN, "invoke local.start"),
    (("launch", "--env", "local"), ExitCode.LOCAL_CLOUD_DOWN, "invoke local.start"),
    (("deploy", "--env", "local"), ExitCode.LOCAL_CLOUD_DOWN, "invoke local.start"),
    (("fetch", "--env", "dev"), ExitCode.NO_CREDENTIALS, "credentials"),
    (("runs", "--limit", "abc"), ExitCode.USAGE, "--limit: got 'abc'"),
    (("runs", "--limit=-1"), ExitCode.USAGE, "--limit: got '-1'"),
    (("logs", "--node", "x"), ExitCode.USAGE, "--node: got 'x'"),
    (("launch", "--env", "dev", "--max-cost="), ExitCode.SETTINGS_INVALID, "max_cost_usd"),
    (("report", "--folder", "x", "--run", "2025-01-15-143022"), ExitCode.USAGE, "leave --env and --run out"),
]


@pytest.mark.parametrize(("words", "code", "text"), ENDS)
def test_an_error_is_a_line_and_a_code_and_no_traceback(
    words: tuple[str, ...], code: ExitCode, text: str, invoke: Call
) -> None:
    done = invoke(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_reader_that_has_enough_ends_a_task_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [str(INVOKE), "render", "--env", "dev"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.NOBODY_READS, "")


def test_a_terminal_that_knows_ascii_alone_gets_what_it_can_show() -> None:
    code = "import tasks; print('50 % \u2588\u2588')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "50 % ??\n"), done.stderr


def test_a_wrong_settings_file_is_a_line_as_well(invoke: Call) -> None:
    done = invoke("render", CHRONOS_VOLUME_GB="many")
    assert done.returncode == ExitCode.SETTINGS_INVALID
    assert "CHRONOS_VOLUME_GB: expected int, got 'many'" in done.stderr


KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ChronosError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_project_becomes_its_exit_code(kind: type, tasks: ModuleType) -> None:
    with pytest.raises(Exit) as caught, tasks.clear_errors():
        raise kind("what is wrong; what to do")
    assert caught.value.code == kind.exit_code  # type: ignore[attr-defined]
    assert caught.value.message == f"{kind.__name__}: what is wrong; what to do"


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (PermissionError(13, "Permission denied", "/x y"), ExitCode.FAILED, "/x y: Permission denied"),
        (OSError(28, "No space left on device"), ExitCode.FAILED, "No space left on device"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted"),
    ],
    ids=["a folder", "a full disk", "ctrl-C"],
)
def test_what_a_machine_or_a_person_stops_is_a_line_and_a_code(
    problem: BaseException, code: ExitCode, line: str, tasks: ModuleType
) -> None:
    with pytest.raises(Exit) as caught, tasks.clear_errors():
        raise problem
    assert (caught.value.code, caught.value.message) == (code, line)


def test_what_is_no_error_of_the_project_stays_what_it_is(tasks: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError), tasks.clear_errors():
        _ = 1 / 0


# -- what it runs -------------------------------------------------------------------------------------


class Ran:
    """The commands that tasks ran, and the codes that they are to end with."""

    def __init__(self) -> None:
        self.argvs: list[list[str]] = []
        self.codes: dict[str, int] = {}

    def run_command(self, argv: list[str], **_: object) -> int:
        self.argvs.append(list(argv))
        return next((code for word, code in self.codes.items() if word in " ".join(argv)), 0)

    def run_side_by_side(self, argvs: list[list[str]]) -> int:
        return next(filter(None, map(self.run_command, argvs)), 0)

    @property
    def lines(self) -> list[str]:
        return [" ".join(argv) for argv in self.argvs]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ran]:
    recorder = Ran()
    monkeypatch.setattr(commands, "run_command", recorder.run_command)
    monkeypatch.setattr(commands, "run_side_by_side", recorder.run_side_by_side)
    monkeypatch.setattr(commands, "aws_environment", lambda settings: {})
    return recorder  # type: ignore[return-value]


SCRIPTS = REPOSITORY / "shell"


def test_launch_hands_its_flags_to_the_script(tasks: ModuleType, ran: Ran) -> None:
    tasks.launch(Context(), env="dev", set_=["seed=1", "ami_name=a b"], dry_run=True, json=True)
    assert ran.argvs == [
        [
            *(
                str(SCRIPTS / "launch_training.sh"),
                "--env",
                "dev",
                "--set",
                "seed=1",
                "--set",
                "ami_name=a b",
            ),
            *("--dry-run", "--json"),
        ]
    ]


def test_launch_hands_the_ladders_flags_to_the_script(tasks: ModuleType, ran: Ran) -> None:
    tasks.launch(Context(), env="dev", spot=True, wait_for_capacity="2h", resume="2025-01-15-143022")
    assert ran.argvs[0][3:] == ["--spot", "--wait-for-capacity", "2h", "--resume", "2025-01-15-143022"]


def test_an_empty_flag_of_launch_is_not_taken_for_none(tasks: ModuleType, ran: Ran) -> None:
    tasks.launch(Context(), env="dev", wait_for_capacity="", resume="")
    assert ran.argvs[0][3:] == ["--wait-for-capacity", "", "--resume", ""]  # the script refuses both
    with pytest.raises(Exit, match="max_cost_usd: expected float"):
        tasks.launch(Context(), env="dev", max_cost="")


def test_the_embedded_aws_takes_a_spot_instance_back(tasks: ModuleType, ran: Ran) -> None:
    tasks.local_interrupt(Context(), instance="i-1", rebalance=True, notice_seconds="9")
    assert ran.argvs[0][3] == "interrupt"
    assert ran.argvs[0][6:] == ["--notice-seconds", "9", "--instance", "i-1", "--rebalance"]


def test_launch_hands_its_cap_to_the_script(tasks: ModuleType, ran: Ran) -> None:
    tasks.launch(Context(), env="dev", max_cost="2.50")
    assert ran.argvs[0][3:] == ["--max-cost", "2.50"]


@pytest.mark.parametrize("usd", ["-1", "free"])
def test_a_cap_that_is_no_money_is_refused_before_anything_is_run(
    tasks: ModuleType, ran: Ran, usd: str
) -> None:
    with pytest.raises(Exit, match="max_cost_usd"):
        tasks.launch(Context(), env="dev", max_cost=usd)
    assert ran.argvs == []


def test_launch_without_flags_is_the_default_environment(tasks: ModuleType, ran: Ran) -> None:
    tasks.launch(Context())
    assert ran.argvs == [[str(SCRIPTS / "launch_training.sh"), "--env", "local"]]


@pytest.mark.parametrize("flag", ["yes", "now", "dry_run", "json"])
def test_kill_hands_each_flag_to_the_script(flag: str, tasks: ModuleType, ran: Ran) -> None:
    tasks.kill(Context(), env="prod", **{flag: True})
    assert ran.argvs == [[str(SCRIPTS / "kill_training.sh"), "--env", "prod", f"--{flag.replace('_', '-')}"]]


def test_deploy_is_the_direct_cdk_deploy(tasks: ModuleType, ran: Ran) -> None:
    tasks.deploy(Context(), env="prod")
    dev = load_settings("prod", variables={})
    flags = ("--method", "direct", "--require-approval", "never", "--progress", "events")
    assert ran.argvs == [commands.cdk_command(dev, ["dev", "prod"], "deploy", *flags)]


def test_sample_data_go_where_the_user_stands(
    tasks: ModuleType, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tasks.sample_data(Context(), into="data")
    assert ran.argvs == [commands.module_command("workstation.sample_data", str(tmp_path / "data"))]


def test_a_dry_deploy_compares_templates_and_changes_nothing(
    tasks: ModuleType, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.deploy(Context(), env="prod", notify_email="me@example.com", dry_run=True)
    (argv,) = ran.argvs
    assert argv[2:5] == ["diff", "--method", "template"]
    assert "notify_email=me@example.com" in argv
    assert "notices go to" not in capsys.readouterr().err


def test_deploy_takes_an_address_for_notices(
    tasks: ModuleType, ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "cdk_command", lambda settings, *_: [settings.notify_email])
    tasks.deploy(Context(), env="dev", notify_email="ana@example.org")
    assert ran.argvs == [["ana@example.org"]]
    told = capsys.readouterr().err
    assert "notices go to ana@example.org once the link" in told
    assert "the next deploy without --notify-email ends that" in told and "invoke.yaml" in told
    monkeypatch.setenv("CHRONOS_NOTIFY_EMAIL", "ana@example.org")
    tasks.deploy(Context(), env="dev")
    assert "ends that" not in capsys.readouterr().err, "an address among the settings stays"
    monkeypatch.delenv("CHRONOS_NOTIFY_EMAIL")
    ran.argvs.pop()
    with pytest.raises(Exit) as caught:
        tasks.deploy(Context(), env="dev", notify_email="ana")
    assert caught.value.code == ExitCode.SETTINGS_INVALID
    assert len(ran.argvs) == 1


def test_destroy_asks_unless_told_not_to(
    tasks: ModuleType, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronos_ec2.workstation.destruction.refuse_while_running", lambda *_: None)
    tasks.destroy(Context(), env="dev")
    tasks.destroy(Context(), env="dev", yes=True)
    assert ["--force" in argv for argv in ran.argvs] == [False, True]


def test_build_env_packs_the_environments_own_requirements(tasks: ModuleType, ran: Ran) -> None:
    small = "environment_requirements=requirements/instance-test.lock"
    tasks.build_env(Context(), env="local", set_=[small])
    tasks.build_env(Context(), env="dev")
    tasks.build_env(Context(), env="dev", platform="linux-x86-64", interpreter="/a/python.tar.gz")
    assert [argv[2:] for argv in ran.argvs] == [
        [
            *("chronos_ec2.workstation.environment_build", "--requirements"),
            str(REPOSITORY / f"requirements/{name}.lock"),
            *("--output", str(REPOSITORY / f".chronos/env/{name}"), "--format", "squashfs", *more),
        ]
        for name, more in (
            ("instance-test", ("--platform", "this")),
            ("instance", ()),
            ("instance", ("--platform", "linux-x86-64", "--interpreter", "/a/python.tar.gz")),
        )
    ]


@pytest.mark.parametrize("code", [1, 12, 17, 130])
def test_a_failed_command_ends_the_task_with_its_own_code(code: int, tasks: ModuleType, ran: Ran) -> None:
    ran.codes["launch_training.sh"] = code
    with pytest.raises(Exit) as caught:
        tasks.launch(Context(), env="dev")
    assert caught.value.code == code


def test_render_prints_the_user_data_and_makes_no_call(invoke: Call) -> None:
    done = invoke("render", "--env", "dev", "--set", "max_hours=2", "--set", "accelerator=cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "shutdown -P +120\n" in done.stdout
    assert "CHRONOS_ACCELERATOR=cpu " in done.stdout


def test_local_env_prints_nothing_but_variables(tasks: ModuleType, ran: Ran) -> None:
    tasks.local_env(Context())
    assert ran.lines[0].split()[1:4] == ["-m", "chronos_ec2.local_cloud", "env"]


def test_lint_checks_every_shell_file_and_can_mend(tasks: ModuleType, ran: Ran) -> None:
    tasks.lint(Context())
    checks, programs = ran.argvs[:], [argv[0] for argv in ran.argvs]
    assert programs == ["shellcheck", "mypy", "shellcheck", "shfmt", "ruff", "ruff"]
    scripts, libraries, formatted = (set(checks[n]) for n in (0, 2, 3))
    assert {"shell/launch_training.sh", "invokew", ".ci/run"} <= scripts
    assert {path for path in formatted if (REPOSITORY / path).is_file()} <= scripts | libraries
    assert "shell/lib/exit_codes.sh" in libraries - scripts
    assert all((REPOSITORY / name).is_file() for name in checks[0][1:] + checks[2][3:])
    assert "--check" in checks[5]
    ran.argvs.clear()
    tasks.lint(Context(), fix=True)
    assert [argv[0] for argv in ran.argvs] == ["shfmt", "ruff", "ruff", "shellcheck", "mypy", "shellcheck"]
    assert "--write" in ran.argvs[0] and "--fix" in ran.argvs[1] and "--check" not in ran.argvs[2]


def test_test_runs_every_check(tasks: ModuleType, ran: Ran) -> None:
    tasks.test_all(Context())
    said = "\n".join(ran.lines)
    for word in ("shellcheck", "shfmt", "ruff check", "ruff format", "mypy", "bats/run.sh", "pytest tests"):
        assert word in said


def test_a_check_that_fails_ends_the_tests(tasks: ModuleType, ran: Ran) -> None:
    ran.codes["ruff check"] = 1
    with pytest.raises(Exit):
        tasks.test_all(Context())
    assert ran.lines[-1].startswith("ruff check")


# -- the demo -----------------------------------------------------------------------------------------

STEPS = (
    "local_start",
    "deploy",
    "sample_data",
    "build_env",
    "upload",
    "launch",
    "watch",
    "fetch",
    "runs",
    "local_stop",
)


def test_an_upload_sends_the_scripts_before_what_takes_long(
    tasks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that breaks off behind them leaves no scripts that are older than the checkout's user data."""
    sent: list[str] = []
    workstation = "chronos_ec2.workstation"
    for name in ("upload.upload_scripts", "upload.upload_data", "upload.upload_environment"):
        monkeypatch.setattr(f"{workstation}.{name}", lambda *_, name=name, **__: sent.append(name))
    monkeypatch.setattr(f"{workstation}.model_upload.upload_model", lambda *_, **__: sent.append("model"))
    monkeypatch.setattr(f"{workstation}.instance_tools.make_instance_tools", lambda *_, **__: {})
    module = sys.modules[tasks.upload.body.__module__]
    monkeypatch.setattr(module, "Aws", lambda _: SimpleNamespace(s3=None, bucket="a-bucket"))
    monkeypatch.setattr(module, "STATE_FOLDER", tmp_path)
    tasks.upload(Context(), env="dev", data=str(tmp_path), model=str(tmp_path))
    assert sent == ["upload.upload_scripts", "upload.upload_data", "model", "upload.upload_environment"]


@pytest.fixture
def demo_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[ModuleType, list[str]]]:
    """tasks.py with every step of the demo replaced, and what it did."""
    module, done = load_tasks(), []
    for name in STEPS:
        monkeypatch.setattr(module, name, lambda c, name=name, **_: done.append(name))
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(
        "chronos_ec2.workstation.summary.print_summary", lambda folder, out: done.append(folder.name)
    )
    results = tmp_path / "results"
    for name in ("2025-01-15-143022", "2025-01-14-000000", "zz notes", "2025-01-15-plots"):
        (results / name).mkdir(parents=True)
    return module, done  # type: ignore[return-value]


def test_the_demo_is_the_other_tasks_in_a_row(demo_steps: tuple[ModuleType, list[str]]) -> None:
    module, done = demo_steps
    module.demo(Context())
    assert done == [*STEPS, "2025-01-15-143022"]


def test_a_demo_that_fails_stops_the_embedded_aws(
    demo_steps: tuple[ModuleType, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, done = demo_steps

    def fail(c: Context, **_: object) -> None:
        raise Exit(code=20)

    monkeypatch.setattr(module, "watch", fail)
    with pytest.raises(Exit):
        module.demo(Context())
    assert done == [*STEPS[: STEPS.index("watch")], "local_stop"]


def test_a_demo_that_is_kept_leaves_the_embedded_aws_up(
    demo_steps: tuple[ModuleType, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    module, done = demo_steps
    module.demo(Context(), keep=True)
    assert "local_stop" not in done
    assert "invoke local.stop ends it" in capsys.readouterr().out
