"""Starting, stopping and finding the embedded AWS; its machine image and its shutdown program."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import LocalCloudDown, ToolMissing, UsageProblem
from chronos_ec2.local_cloud import control
from chronos_ec2.local_cloud.__main__ import main, shell_lines
from chronos_ec2.local_cloud.home import Endpoint, Home, process_start
from chronos_ec2.local_cloud.image import PROBES, build_image, find_tool

SHUTDOWN = Path(control.__file__).parent / "image" / "shutdown"
SUPERVISOR = Path(control.__file__).parent / "supervisor.py"


def test_starting_twice_leaves_the_first_alone(cloud: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "--home", str(cloud.home)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == cloud.endpoint.endpoint_url
    assert "already running" in said.err


def test_status_and_env_speak_of_the_running_server(cloud: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--home", str(cloud.home)]) == 0
    assert cloud.endpoint.endpoint_url in capsys.readouterr().out
    script = f"export AWS_PROFILE=other AWS_SESSION_TOKEN=x\n{shell_lines(cloud.endpoint)}\nenv"
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={}).stdout
    seen = dict(line.split("=", 1) for line in out.splitlines())
    assert {name: seen[name] for name in seen if name.startswith("AWS_")} == {
        "AWS_ENDPOINT_URL": cloud.endpoint.endpoint_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }


def test_only_loopback_is_served(cloud: Any) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    port = f":{cloud.endpoint.port:04X} "
    local = [line.split()[1] for line in listening.splitlines() if port in line and " 0A " in line]
    assert local == [f"0100007F{port.strip()}"]


def test_a_whole_life(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--home", str(own_home)]
    assert main(["env", *place]) == 29
    assert "start it with" in capsys.readouterr().err
    assert main(["stop", *place]) == 0
    assert main(["start", *place]) == 0
    endpoint = control.read_endpoint(own_home)
    assert endpoint is not None
    assert main(["stop", *place]) == 0
    assert process_start(endpoint.pid) is None
    assert control.read_endpoint(own_home) is None
    assert not (own_home / "endpoint.json").exists()


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LocalCloudDown, match=r"did not start; .*server.log ends with:\n.*in use"):
            control.start(tmp_path, taken.getsockname()[1])


@pytest.mark.parametrize(("below", "why"), [("", "it is a file"), ("inner", "Not a directory")])
def test_a_home_that_is_no_folder_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str, why: str
) -> None:
    (tmp_path / "notes").write_text("mine")
    home = tmp_path / "notes" / below
    assert main(["start", "--home", str(home)]) == 29
    said = capsys.readouterr().err
    assert said.startswith(f"error: {home} cannot be the embedded AWS's folder: {why}; name another one")
    assert said.count("\n") == 1
    assert main(["stop", "--home", str(home)]) == 0
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_recycled_process_id_is_never_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        home = Home(tmp_path)
        home.take()
        home.write_endpoint(Endpoint(innocent.pid, "another boot:1", 1, "http://127.0.0.1:1"))
        assert control.stop(tmp_path) is False
        assert innocent.poll() is None
        assert not home.endpoint_file.exists()
        innocent.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started": "1", "port": 1}'])
def test_a_damaged_endpoint_file_means_not_running(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.json").write_text(text)
    assert control.read_endpoint(tmp_path) is None


def test_an_endpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    mine = Endpoint(os.getpid(), process_start(os.getpid()) or "", 7, "http://127.0.0.1:7")
    Home(tmp_path).write_endpoint(mine)
    assert control.read_endpoint(tmp_path) == mine
    assert asdict(mine)["port"] == 7


def test_a_port_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_LOCAL_PORT", "abc")
    with pytest.raises(UsageProblem, match="CHRONOS_LOCAL_PORT"):
        control.start(tmp_path)


def test_the_home_is_in_the_repository_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(below)
    assert control.default_home({}) == tmp_path / ".chronos" / "local"
    assert control.default_home({"CHRONOS_LOCAL_HOME": ""}) == tmp_path / ".chronos" / "local"
    assert control.default_home({"CHRONOS_LOCAL_HOME": "/x"}) == Path("/x")


def test_control_loads_nothing_heavy() -> None:
    code = "import chronos_ec2.local_cloud.control, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"moto", "boto3", "botocore", "werkzeug", "flask"} & set(loaded.split())


def test_missing_programs_are_all_named(tmp_path: Path) -> None:
    def without_two(name: str) -> str | None:
        return None if name in ("jq", "curl") else find_tool(name)

    with pytest.raises(ToolMissing, match=r"curl, jq"):
        build_image(tmp_path / "image", without_two)


@pytest.mark.parametrize("name", PROBES)
def test_a_program_that_is_not_gnus_is_named_with_what_to_install(tmp_path: Path, name: str) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\nexit 64\n")
    other.chmod(0o755)
    with pytest.raises(
        ToolMissing, match=rf": a {name} that knows .*other does not\).*brew install"
    ) as found:
        build_image(tmp_path / "image", lambda tool: str(other) if tool == name else find_tool(tool))
    assert str(found.value).count(" that knows ") == 1
    assert not (tmp_path / "image").exists()


def test_the_callers_programs_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("gnubin", "relative"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "stat").write_text("#!/bin/sh\n")
        (tmp_path / folder / "stat").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f":relative:{tmp_path / 'gnubin'}:/usr/bin:/bin")
    assert find_tool("stat") == str(tmp_path / "gnubin" / "stat")
    monkeypatch.setenv("PATH", "relative")
    assert find_tool("stat") == shutil.which("stat", path="/usr/local/bin:/usr/bin:/bin")


def run_shutdown(root: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "CHRONOS_ROOT": str(root)}
    if not str(root):
        del environment["CHRONOS_ROOT"]
    return subprocess.run(
        ["bash", str(SHUTDOWN), *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("root", ["", "/nonexistent"])
def test_shutdown_refuses_where_there_is_no_instance(root: str) -> None:
    answer = run_shutdown(root, "-P", "now")
    assert answer.returncode == 1
    assert "nothing was done" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "request_line"),
    [
        (["-P", "now"], "poweroff 0"),
        (["-h", "+10", "good bye"], "poweroff 600"),
        (["--no-wall", "-P", "7"], "poweroff 420"),
        ([], "poweroff 60"),
        (["-r", "now"], "reboot 0"),
        (["-c"], "cancel"),
        (["-P", "+08"], "poweroff 480"),
    ],
)
def test_shutdown_asks_the_host(tmp_path: Path, arguments: list[str], request_line: str) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/power")
    reader = os.open(tmp_path / "run/power", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run_shutdown(tmp_path, *arguments).returncode == 0
        assert os.read(reader, 100).decode().strip() == request_line
    finally:
        os.close(reader)


@pytest.mark.parametrize("argument", ["--frobnicate", "soon", "+x", "99:99"])
def test_shutdown_refuses_what_it_cannot_read(tmp_path: Path, argument: str) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/power")
    assert run_shutdown(tmp_path, argument).returncode == 2


def test_hidden_files_are_hidden_from_that_process_alone(tmp_path: Path) -> None:
    secret = tmp_path / "shutdown"
    secret.write_text("#!/bin/sh\n")
    secret.chmod(0o755)
    code = (
        f"import os, sys; sys.path.insert(0, {str(SUPERVISOR.parent)!r}); import supervisor\n"
        f"hidden = supervisor.hide([{str(secret)!r}, '/no/such/file'])\n"
        f"print(hidden, os.access({str(secret)!r}, os.X_OK), os.geteuid())"
    )
    out = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    hidden, executable, user = out.split()
    if hidden == "False":
        pytest.skip("the kernel allows no mount namespace here")
    assert (executable, int(user)) == ("False", os.geteuid())
    assert os.access(secret, os.X_OK)
