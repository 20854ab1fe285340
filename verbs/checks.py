"""The checks of this repository, and its lock files."""

from __future__ import annotations

import random

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation import commands, toolchain
from chronos_ec2.workstation.settings import REPOSITORY
from verbs.common import clear_errors, run


def shell_files() -> list[str]:
    """Every Bash file that we wrote."""
    folders = (REPOSITORY / "shell", REPOSITORY / "tests" / "bats")
    found = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".sh", ".bash", ".bats")
    ]
    return [str(path.relative_to(REPOSITORY)) for path in sorted(found)] + ["invokew", ".ci/run"]


def shell_libraries_and_scripts() -> tuple[list[str], list[str]]:
    """What is only sourced, and what is run."""
    files = shell_files()
    libraries = [file for file in files if file.startswith("shell/lib/")]
    return libraries, [file for file in files if file not in libraries]


@task(help={"fix": "format and mend what can be mended instead of complaining"})
def lint(c: Context, fix: bool = False) -> None:
    """Check the sources: shellcheck, shfmt, ruff, mypy."""
    libraries, scripts = shell_libraries_and_scripts()
    checks = [  # the longest first, as they run side by side
        ["shellcheck", *scripts],
        ["mypy"],
        # Each by itself: they source each other, and shellcheck would read every path through them anew.
        ["shellcheck", "--norc", "--exclude=SC1091", *libraries],
        ["shfmt", "--write" if fix else "--diff", *shell_files()],
        ["ruff", "check", *(["--fix"] if fix else []), "."],
        ["ruff", "format", *([] if fix else ["--check"]), "."],
    ]
    if fix:
        for argv in checks[3:] + checks[:3]:  # what others look at is mended first, one thing after the other
            run(argv)
        return
    with clear_errors():
        code = commands.run_side_by_side(checks)
    if code:
        raise Exit(code=code)


@task(help={"only": "a file or a folder of tests/bats; default: all"})
def bats(c: Context, only: str = "tests/bats") -> None:
    """Test the Bash scripts."""
    with clear_errors():
        program = str(toolchain.node_program("bats", "bats"))
    if only == "tests/bats":
        run(["bash", "tests/bats/run.sh"])  # side by side, a file a core
    else:
        run([program, "--print-output-on-failure", "--recursive", only])


@task(help={"only": "a file or a folder; default: all"})
def pytest(c: Context, only: str = "tests") -> None:
    """Test the Python code, the CDK app, the embedded AWS and whole runs on it."""
    run(commands.pytest_command(only, spread="loadscope"))


@task(
    help={
        "seed": "seed of what is left to chance; default: a new one, printed",
        "report": "file that gets the counts as a page, e.g. docs/fault-proofs.md",
        "only": "a file of tests/faults; default: all",
    }
)
def faults(
    c: Context, seed: int | None = None, report: str | None = None, only: str = "tests/faults"
) -> None:
    """Break runs in every way and see what is left: every case, a file at a time (hours)."""
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    failed = []
    for words in commands.faults_commands(only, seed, report):
        with clear_errors():
            code = commands.run_command(words)
        if code == ExitCode.INTERRUPTED:
            raise Exit(code=code)
        if code:
            failed.append(words[3])
    if failed:
        raise Exit(f"not proven: {', '.join(failed)}", code=1)


@task(
    help={
        "seed": "seed of what is generated; default: a new one, printed",
        "examples": "inputs for each test; default: 2000",
        "only": "a file of tests/fuzz; default: all",
    }
)
def fuzz(c: Context, seed: int | None = None, examples: int | None = None, only: str = "tests/fuzz") -> None:
    """Give every reader of foreign input generated nonsense: many cases (a quarter of an hour)."""
    run(commands.fuzz_command(only, seed, examples))


@task(name="test")
def test_all(c: Context) -> None:
    """Run every check and every test."""
    lint(c)
    bats(c)
    pytest(c)


@task
def lock(c: Context) -> None:
    """Write the lock files anew from requirements/*.in."""
    run(commands.module_command("workstation.lock_files"))
