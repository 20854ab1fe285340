"""The argument lists, exactly, and the one place that runs them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import groupby
from multiprocessing import cpu_count
from pathlib import Path

import pytest

from chronos_ec2.errors import LocalCloudDown, SettingsError, ToolMissing
from chronos_ec2.workstation import commands, toolchain
from chronos_ec2.workstation.settings import REPOSITORY, Settings
from chronos_ec2.workstation.stack_context import stack_context


def embedded_at(home: Path, url: str = "http://127.0.0.1:4566") -> None:
    home.mkdir()
    (home / "endpoint.json").write_text(json.dumps({"endpoint_url": url, "pid": 1}))


# -- argument lists -----------------------------------------------------------------------------------


def test_the_cdk_command(dev: Settings) -> None:
    settings = dataclasses.replace(dev, availability_zones=2)
    argv = commands.cdk_command(settings, ["dev", "prod"], "deploy", "--method", "direct")
    assert argv == [
        str(toolchain.node_bin() / "node"),
        str(REPOSITORY / "node_modules/aws-cdk/bin/cdk"),
        *("deploy", "--method", "direct"),
        *("--context", "environments=dev,prod"),
        *("--context", "availability_zones=2"),
        *("--context", f"log_retention_days={dev.log_retention_days}"),
        *("--context", f"glacier_after_days={dev.glacier_after_days}"),
    ]


def test_each_embedded_aws_has_an_output_of_its_own(local: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_LOCAL_HOME", "/somewhere")
    assert commands.cdk_command(local, ["local"], "deploy")[-2:] == ["--output", "/somewhere/cdk.out"]


def test_the_cdk_command_names_the_address_that_wants_notices(dev: Settings) -> None:
    settings = dataclasses.replace(dev, notify_email="me@example.com")
    argv = commands.cdk_command(settings, ["dev"], "deploy")
    assert argv[-2:] == ["--context", "notify_email=me@example.com"]


def test_the_cdk_command_names_the_alarms_and_every_type_that_a_launch_may_end_on(dev: Settings) -> None:
    settings = dataclasses.replace(dev, alarm_hours=4)
    argv = commands.cdk_command(settings, ["dev", "prod"], "deploy")
    assert argv[-4:] == ["--context", "alarm_hours=4", "--context", "instance_types=g4dn.2xlarge,g5.2xlarge"]


def test_fallback_types_are_watched_too_each_once(dev: Settings) -> None:
    types = ("g5.2xlarge", "g6.2xlarge")
    settings = dataclasses.replace(dev, alarm_hours=4, fallback_instance_types=types)
    context = stack_context(settings, ["dev", "prod"], {"dev": settings, "prod": settings}.__getitem__)
    assert context["instance_types"] == "g4dn.2xlarge,g5.2xlarge,g6.2xlarge"


def test_machines_of_one_environment_that_train_together_give_the_shared_stack_a_cluster(
    dev: Settings,
) -> None:
    prod = dataclasses.replace(dev, environment="prod", nodes=4)
    both = {"dev": dev, "prod": prod}.__getitem__
    assert stack_context(dev, ["dev", "prod"], both)["nodes"] == "4"
    assert "nodes" not in stack_context(dev, ["dev"], both)


def test_the_last_to_be_deployed_does_not_decide_for_those_that_share_its_stack(dev: Settings) -> None:
    prod = dataclasses.replace(
        dev, environment="prod", notify_email="me@example.com", availability_zones=3, alarm_hours=4
    )
    context = stack_context(dev, ["dev", "prod"], {"dev": dev, "prod": prod}.__getitem__)
    assert (context["notify_email"], context["alarm_hours"]) == ("me@example.com", "4")
    assert context["availability_zones"] == "3"
    other = dataclasses.replace(dev, notify_email="you@example.com")
    with pytest.raises(SettingsError, match=r"'you@example.com' in dev, 'me@example.com' in prod"):
        stack_context(other, ["dev", "prod"], {"prod": prod}.__getitem__)


def test_a_script_command() -> None:
    assert commands.script_command("launch_training.sh", "dev", ["seed=1", "ami_name=a b"], "--json") == [
        str(REPOSITORY / "shell/launch_training.sh"),
        *("--env", "dev", "--set", "seed=1", "--set", "ami_name=a b", "--json"),
    ]
    assert commands.script_command("kill_training.sh", "local") == [
        str(REPOSITORY / "shell/kill_training.sh"),
        *("--env", "local"),
    ]


@pytest.mark.parametrize("name", ["launch_training.sh", "kill_training.sh"])
def test_the_scripts_are_there_and_can_be_run(name: str) -> None:
    assert os.access(commands.script_command(name, "dev")[0], os.X_OK)


def test_the_embedded_aws_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_LOCAL_HOME", "/some where")
    assert commands.local_cloud_command("start") == [
        *(sys.executable, "-m", "chronos_ec2.local_cloud", "start", "--home", "/some where"),
    ]
    monkeypatch.delenv("CHRONOS_LOCAL_HOME")
    assert commands.local_cloud_command("stop")[-1] == str(REPOSITORY / ".chronos/local")


def test_a_module_command() -> None:
    assert commands.module_command("workstation.sample_data", "a b") == [
        *(sys.executable, "-m", "chronos_ec2.workstation.sample_data", "a b"),
    ]


# -- environments of programs -------------------------------------------------------------------------


def test_tests_run_on_all_cores() -> None:
    words = [sys.executable, "-m", "pytest", "tests", "--numprocesses", str(cpu_count() + 1)]
    words += ["--no-loadscope-reorder", "--dist", "loadscope"]
    assert commands.pytest_command("tests", spread="loadscope") == words


def test_the_fault_proofs_in_full() -> None:
    first, *others = commands.faults_commands("tests/faults", 7)
    assert first[3:] == [
        *("tests/faults/test_contention.py", "--numprocesses", "1", "--dist", "worksteal"),
        *("--full", "--seed", "7"),
    ]
    assert {words[5] for words in others} == {"auto"} and len(others) > 5
    (words,) = commands.faults_commands("tests/faults/test_crash.py", "7", "page.md")
    assert words[-5:] == ["--full", "--seed", "7", "--report", "page.md"]


def test_generated_input_at_length() -> None:
    assert commands.fuzz_command("tests/fuzz")[-1] == "--long"
    words = commands.fuzz_command("tests/fuzz/test_keys.py", "7", "100")
    assert words[-4:] == ["--long", "--hypothesis-seed=7", "--examples", "100"]
    assert words[3] == "tests/fuzz/test_keys.py"


def test_the_pinned_programs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert commands.base_environment()["PATH"].split(":") == [
        str(Path(sys.executable).parent),
        str(toolchain.node_bin()),
        "/usr/bin",
    ]


def test_programs_may_keep_what_python_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert "PYTHONDONTWRITEBYTECODE" not in commands.base_environment()


def test_the_embedded_aws_is_reached_whatever_the_shell_says(
    local: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_at(tmp_path / "home")
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: socket.socket())
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "the user's own")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "the user's own")
    monkeypatch.setenv("CHRONOS_LOCAL_HOME", str(tmp_path / "home"))
    found = commands.aws_environment(local)
    assert "the user's own" not in {value for name, value in found.items() if name.startswith("AWS_")}
    assert found["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert found["NO_PROXY"] == found["no_proxy"] == "intranet.example,127.0.0.1,localhost"
    assert found["AWS_ACCESS_KEY_ID"] == found["AWS_SECRET_ACCESS_KEY"] == "test"
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "us-east-1"


def test_real_aws_keeps_the_users_credentials(dev: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "mine")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    found = commands.aws_environment(dev)
    assert (found["AWS_SESSION_TOKEN"], found["AWS_PROFILE"]) == ("mine", "mine")
    assert "AWS_ENDPOINT_URL" not in found


def test_a_profile_of_the_settings_takes_the_keys_out_of_the_way(
    dev: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "another account's")
    found = commands.aws_environment(dataclasses.replace(dev, aws_profile="team"))
    assert found["AWS_PROFILE"] == "team"
    assert "another account's" not in found.values()


def test_the_embedded_aws_that_is_down_is_told(local: Settings) -> None:
    with pytest.raises(LocalCloudDown, match=r"invoke local\.start"):
        commands.aws_environment(local)


# -- running ------------------------------------------------------------------------------------------


def test_the_command_is_printed_as_it_could_be_typed(capfd: pytest.CaptureFixture[str]) -> None:
    assert commands.run_command(["/bin/echo", "two words", "it's"]) == 0
    seen = capfd.readouterr()
    assert seen.err == "+ /bin/echo 'two words' 'it'\"'\"'s'\n"
    assert seen.out == "two words it's\n"


def test_a_command_can_be_quiet_about_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert commands.run_command(["/bin/echo", "x"], echo=False) == 0
    assert capfd.readouterr() == ("x\n", "")


@pytest.mark.parametrize("code", [0, 1, 12, 255])
def test_the_exit_code_is_the_commands_own(code: int) -> None:
    assert commands.run_command(["/bin/sh", "-c", f"exit {code}"]) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_a_signal_ended_has_the_shells_code(number: signal.Signals) -> None:
    assert commands.run_command(["/bin/sh", "-c", f"kill -{int(number)} $$"]) == 128 + number


def test_a_command_runs_in_the_repository(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    commands.run_command(["/bin/pwd"])
    assert Path(capfd.readouterr().out.strip()).samefile(REPOSITORY)


def test_a_program_is_looked_for_on_the_path_that_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    assert commands.run_command(["only-here"], env={"PATH": str(tmp_path)}) == 7


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match=r"no-such-program.*\./invokew setup"):
        commands.run_command(["no-such-program", "--flag"])
    not_executable = tmp_path / "script.sh"
    not_executable.touch()
    with pytest.raises(ToolMissing, match=r"script\.sh"):
        commands.run_command([str(not_executable)])


def test_ctrl_c_waits_for_the_command_to_end(tmp_path: Path) -> None:
    """Both get the signal, as in a terminal; the command cleans up before the task ends."""
    script = f"""
import sys
from chronos_ec2.workstation import commands
child = "trap 'sleep 0.3; echo cleaned > {tmp_path}/done; exit 130' INT; echo ready; sleep 5 & wait"
sys.exit(commands.run_command(["/bin/bash", "-c", child], echo=False))
"""
    process = subprocess.Popen(
        # Where the tests run in the background of a script, it is ignored, and so it would be here.
        ["env", "--default-signal=INT", sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)  # until the task waits for its command
    os.killpg(process.pid, signal.SIGINT)
    process.stdout.close()
    assert process.wait(timeout=10) == 130
    assert (tmp_path / "done").read_text() == "cleaned\n"


def test_side_by_side_all_run_and_each_output_is_in_one_piece(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The two wait for each other: one after the other, they would wait for ever."""
    monkeypatch.setattr(commands, "cpu_count", lambda: 2)
    wait = "touch {1}/{0}; until [ -e {1}/{2} ]; do sleep 0.02; done"
    other = f"for n in 1 2; do echo {{0}}$n; echo {{0}}$n >&2; {wait}; done; exit {{3}}"
    pair = [other.format("a", tmp_path, "b", 4), other.format("b", tmp_path, "a", 5)]
    assert commands.run_side_by_side([["/bin/sh", "-c", line] for line in [*pair, "echo last"]]) == 4
    seen = capfd.readouterr()
    assert sorted(seen.out.splitlines()) == ["a1", "a1", "a2", "a2", "b1", "b1", "b2", "b2", "last"]
    assert len(list(groupby(line[0] for line in seen.out.splitlines()))) == 3
    assert seen.err.count("+ /bin/sh -c ") == 3


def test_side_by_side_what_a_signal_ended_has_failed_and_what_is_not_installed_is_named() -> None:
    assert commands.run_side_by_side([["true"], ["/bin/sh", "-c", "kill -TERM $$"]]) == 128 + 15
    assert commands.run_side_by_side([["true"], ["true"]]) == 0
    with pytest.raises(ToolMissing, match=r"no-such-program.*\./invokew setup"):
        commands.run_side_by_side([["true"], ["no-such-program"]])


# -- tools --------------------------------------------------------------------------------------------


def test_node_is_the_pinned_one() -> None:
    assert os.access(toolchain.node_bin() / "node", os.X_OK)
    assert toolchain.node_program("bats", "bats").is_file()


def test_a_program_of_node_modules_that_is_missing_is_named() -> None:
    with pytest.raises(ToolMissing, match=r"no-package is not in node_modules: run \./invokew setup"):
        toolchain.node_program("no-package", "x")


def test_node_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match=r"\./invokew setup"):
        toolchain.node_bin()


def test_a_path_without_path_is_the_systems() -> None:
    assert toolchain.path_with_tools({}).endswith(os.defpath)
