"""The commands that the tasks run, as argument lists, and the one place that runs them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import cpu_count
from typing import Any

from chronos_ec2.errors import ToolMissing
from chronos_ec2.workstation.aws import aws_variables, local_home
from chronos_ec2.workstation.settings import REPOSITORY, Settings
from chronos_ec2.workstation.stack_context import stack_context
from chronos_ec2.workstation.toolchain import node_bin, node_program, path_with_tools

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_NOT_FOR_EMBEDDED = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")


def base_environment() -> dict[str, str]:
    """The process environment with the pinned programs first on PATH.

    Python may keep what it compiles: the packages are installed uncompiled, and every start of a program that
    may not keep it would compile all of torch anew.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PATH": path_with_tools()}


def aws_environment(settings: Settings) -> dict[str, str]:
    """The environment in which a program finds this environment's AWS.

    Raises:
        LocalCloudDown: the environment is the embedded AWS, and that is not running.
    """
    variables = base_environment()
    # Keys in the environment beat a profile in the AWS CLI and lose to it in boto3: two accounts at once.
    unwanted = _NOT_FOR_EMBEDDED if settings.embedded else _KEYS if settings.aws_profile else ()
    for name in unwanted:
        variables.pop(name, None)
    return {**variables, **aws_variables(settings)}


def run_command(argv: Sequence[str], *, env: Mapping[str, str] | None = None, echo: bool = True) -> int:
    """Print a command and run it in the repository, its output shown as it comes.

    Returns:
        The exit code; 128 + N for a child that signal N ended, 130 after ctrl-C.

    Raises:
        ToolMissing: the program is not there, or may not be run.
    """
    if echo:
        print(f"+ {shlex.join(argv)}", file=sys.stderr, flush=True)
    with _terminations() as hand_on_to:
        child = _started(argv, env or base_environment())
        hand_on_to(child)
        with child:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                child.wait()
                return 130
    return code if code >= 0 else 128 - code


def run_side_by_side(argvs: Sequence[Sequence[str]]) -> int:
    """Run commands in the repository, as many at once as there are cores, the first ones first.

    What one prints comes in one piece, on stdout, when it has ended. All are run, also when some fail.

    Returns:
        0, or the exit code of the first in the list that failed; 130 after ctrl-C.

    Raises:
        ToolMissing: a program is not there, or may not be run.
    """
    codes: dict[int, int] = {}
    with _terminations() as hand_on_to, ThreadPoolExecutor(cpu_count()) as pool:
        ending = {pool.submit(_output_of, argv, hand_on_to): n for n, argv in enumerate(argvs)}
        try:
            for ended in as_completed(ending):
                code, printed = ended.result()
                codes[ending[ended]] = code
                print(f"+ {shlex.join(argvs[ending[ended]])}", file=sys.stderr, flush=True)
                sys.stdout.write(printed)
                sys.stdout.flush()
        except KeyboardInterrupt:
            return 130
        finally:
            pool.shutdown(cancel_futures=True)
    failed = min((n for n, code in codes.items() if code), default=None)
    return 0 if failed is None else codes[failed] if codes[failed] > 0 else 128 - codes[failed]


_HandOn = Callable[["subprocess.Popen[Any]"], None]


def _output_of(argv: Sequence[str], hand_on_to: _HandOn) -> tuple[int, str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    child = _started(argv, base_environment(), **streams)
    hand_on_to(child)
    with child:
        printed, _ = child.communicate()
    return child.returncode, printed


def _started(argv: Sequence[str], env: Mapping[str, str], **streams: Any) -> subprocess.Popen[Any]:
    try:
        return subprocess.Popen(argv, cwd=REPOSITORY, env=dict(env), **streams)
    except OSError as error:
        raise ToolMissing(f"{argv[0]} cannot be run ({error.strerror}): run ./invokew setup") from error


@contextlib.contextmanager
def _terminations() -> Iterator[_HandOn]:
    """Hand a SIGTERM on to the children, which clean up and end; their exit codes then say so.

    It is heard from before they are there: one that comes while a child is being started reaches it as well.
    """
    children: list[subprocess.Popen[Any]] = []
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        for child in children:
            child.terminate()

    def hand_on_to(child: subprocess.Popen[Any]) -> None:
        children.append(child)
        if heard:
            child.terminate()

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield hand_on_to
    finally:
        signal.signal(signal.SIGTERM, before)


def cdk_command(settings: Settings, siblings: Sequence[str], action: str, *extra: str) -> list[str]:
    """The CDK CLI's own `deploy`, `destroy`, `diff` or `synth`, with the settings as context."""
    context = stack_context(settings, siblings).items()
    pairs = [word for key, value in context for word in ("--context", f"{key}={value}")]
    # The CDK CLI locks its output: two embedded AWS of one checkout deploy side by side.
    place = ["--output", str(local_home() / "cdk.out")] if settings.embedded else []
    return [str(node_bin() / "node"), str(node_program("aws-cdk", "cdk")), action, *extra, *pairs, *place]


def script_command(name: str, environment: str, assignments: Sequence[str] = (), *flags: str) -> list[str]:
    """One of the Bash scripts, as it could be typed."""
    sets = [word for item in assignments for word in ("--set", item)]
    return [str(REPOSITORY / "shell" / name), "--env", environment, *sets, *flags]


def local_cloud_command(action: str) -> list[str]:
    """The embedded AWS's own command line."""
    return [sys.executable, "-m", "chronos_ec2.local_cloud", action, "--home", str(local_home())]


def module_command(module: str, *arguments: str) -> list[str]:
    """One of the package's modules, run by this Python."""
    return [sys.executable, "-m", f"chronos_ec2.{module}", *arguments]


def pytest_command(only: str, *, spread: str) -> list[str]:
    """Some tests, on all cores.

    Args:
        spread: how pytest-xdist deals them out: `loadscope` keeps together what shares slow fixtures (see
            tests/conftest.py), `worksteal` does not.
    """
    workers = ["--numprocesses", "auto"]
    if spread == "loadscope":  # one of them waits for whole runs most of its time
        workers = ["--numprocesses", str(cpu_count() + 1), "--no-loadscope-reorder"]
    return [sys.executable, "-m", "pytest", only, *workers, "--dist", spread]


def fuzz_command(only: str, seed: int | str | None = None, examples: int | str | None = None) -> list[str]:
    """The long form of the tests by generated input."""
    words = [*pytest_command(only, spread="worksteal"), "--long"]
    if seed is not None:
        words.append(f"--hypothesis-seed={seed}")
    if examples is not None:
        words += ["--examples", str(examples)]
    return words


def faults_commands(only: str, seed: int | str, report: str | None = None) -> list[list[str]]:
    """The full form of the fault proofs: a command for each file, as each is a proof of its own."""
    path = REPOSITORY / only
    files = sorted(path.glob("test_*.py")) if path.is_dir() else [path]
    return [_faults_command(str(file.relative_to(REPOSITORY)), seed, report) for file in files]


def _faults_command(file: str, seed: int | str, report: str | None) -> list[str]:
    words = [*pytest_command(file, spread="worksteal"), "--full", "--seed", str(seed)]
    if file.endswith("test_contention.py"):  # a crowd of fifty launches takes the whole machine
        words[words.index("auto")] = "1"
    if report is not None:
        words += ["--report", report]
    return words
