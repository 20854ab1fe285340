"""The archive on a machine that has glibc and nothing else: no Python, no other library, no shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.workstation.environment_build import BuiltEnvironment
from chronos_ec2.workstation.environment_elf import belongs_to_machine

PYTHON = "/opt/chronos/venv/bin/python3"

TRAINING_IMPORTS = """
import bz2, ctypes, json, lzma, os, site, sqlite3, ssl, subprocess, sys, zlib
import boto3, dateutil, numpy, pyarrow, pyarrow.compute, pyarrow.dataset, pyarrow.fs, pyarrow.parquet, yaml
"""

TRAINING_WORK = (
    TRAINING_IMPORTS
    + """
table = pyarrow.table({"item_id": ["a"] * 1000, "target": numpy.arange(1000.0)})
pyarrow.parquet.write_table(table, "/tmp/a.parquet", compression="zstd")
back = pyarrow.parquet.read_table("/tmp/a.parquet")["target"].to_numpy()
matrix = numpy.eye(64) * 3.0
boto3.client("s3", region_name="us-east-1")
boto3.client("ec2", region_name="us-east-1")
child = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
with sqlite3.connect(":memory:") as base:
    (rows,) = base.execute("select count(*) from sqlite_master").fetchone()
print(json.dumps({
    "prefix": sys.prefix,
    "version": sys.version.split()[0],
    "sum": float(back.sum()),
    "solved": float(numpy.linalg.solve(matrix, numpy.ones(64)).sum()),
    "tls": ssl.create_default_context().check_hostname,
    "lzma": lzma.decompress(lzma.compress(b"x")).decode(),
    "child": child.stdout.strip(),
    "path": [entry for entry in sys.path if entry],
    "user_site": site.ENABLE_USER_SITE,
    "rows": rows,
    "other_python": [p for p in ("/usr", "/root", "/home", "/bin") if os.path.exists(p)],
}))
"""
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def copy_glibc(program: Path, root: Path) -> None:
    """Give a root folder this machine's glibc and loader, at the paths they have here."""
    output = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [Path(word) for word in re.findall(r"(/\S+) \(0x", output)]
    libc = next(path for path in paths if path.name == "libc.so.6")
    loader = next(path for path in paths if path.name.startswith("ld-linux"))
    others = [path for path in libc.parent.glob("lib*.so.*") if belongs_to_machine(path.name)]
    for path in (loader, *others):
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755)


def ways_into(root: Path) -> list[list[str]]:
    """Return the commands that could make a folder the root of a process, with or without privileges."""
    # root's own programs lie where a user's PATH may not look.
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    chroot, unshare, bwrap = (shutil.which(name, path=path) for name in ("chroot", "unshare", "bwrap"))
    ways = [
        [chroot, str(root)],
        [unshare, "--map-root-user", chroot, str(root)],
        [bwrap, "--unshare-user", "--bind", str(root), "/"],
    ]
    return [[word for word in way if word is not None] for way in ways if None not in way]


@pytest.fixture(scope="module")
def run_alone(cpu_environment: BuiltEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the unpacked environment's Python in a root folder that holds it, glibc and an empty /tmp."""
    root = tmp_path_factory.mktemp("machine")
    home = root / "opt" / "chronos" / "venv"
    home.mkdir(parents=True)
    (root / "tmp").mkdir()
    # $ORIGIN, the loader's word for where a program lies, is read from here; mounting a real /proc takes
    # privileges.
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "exe").symlink_to(PYTHON)
    subprocess.run(["unsquashfs", "-quiet", "-f", "-d", home, cpu_environment.archive], check=True)
    copy_glibc(home / "bin" / "python3", root)

    def run(way: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [*way, PYTHON, *arguments]
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)

    complaints = []
    for way in ways_into(root):
        trial = run(way, "--version")
        if trial.returncode == 0:
            return lambda *arguments, **environment: run(way, *arguments, **environment)
        complaints.append(f"{' '.join(way[:2])}: {trial.stderr.strip()}")
    pytest.fail(
        "nothing here can hide this machine's Python: run as root, allow user namespaces for `unshare`, "
        f"or install bubblewrap ({'; '.join(complaints) or 'neither chroot, unshare nor bwrap is installed'})"
    )


def test_it_trains_where_there_is_no_python_and_no_library_but_glibc(
    run_alone: Run, cpu_environment: BuiltEnvironment
) -> None:
    result = run_alone("-c", TRAINING_WORK)
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    assert facts["other_python"] == []
    assert facts["prefix"] == "/opt/chronos/venv"
    assert facts["version"] == cpu_environment.manifest["python"]
    assert facts["sum"] == 499500.0
    assert facts["solved"] == pytest.approx(64 / 3)
    assert facts["tls"] is True
    assert facts["lzma"] == "x"
    assert facts["child"] == "42"
    assert all(entry.startswith("/opt/chronos/venv/lib") for entry in facts["path"])


def test_no_library_is_looked_for_where_the_build_machine_had_it(run_alone: Run) -> None:
    result = run_alone("-c", TRAINING_IMPORTS, LD_DEBUG="libs")
    assert result.returncode == 0, result.stderr[-2000:]
    loaded = set(re.findall(r"calling init: (/\S+)", result.stderr))
    assert len(loaded) > 50
    strangers = {
        path
        for path in loaded
        if not path.startswith("/opt/chronos/venv/") and not belongs_to_machine(Path(path).name)
    }
    assert strangers == set()
    absolute = set(re.findall(r"search path=(\S+)\s+\(R(?:UN)?PATH from file", result.stderr))
    assert absolute
    assert all(part.startswith("/opt/chronos/venv/") for entry in absolute for part in entry.split(":"))


def test_packages_installed_for_a_user_of_the_machine_are_not_seen(run_alone: Run) -> None:
    result = run_alone("-c", "import site; print(site.ENABLE_USER_SITE)", HOME="/tmp")
    assert result.stdout == "False\n"


def test_nothing_is_compiled_at_the_first_import(run_alone: Run) -> None:
    result = run_alone("-v", "-c", TRAINING_IMPORTS)
    assert result.returncode == 0
    assert "wrote " not in result.stderr


def test_the_manifest_describes_the_archive(cpu_environment: BuiltEnvironment) -> None:
    manifest = cpu_environment.manifest
    assert json.loads((cpu_environment.archive.parent / "MANIFEST.json").read_text()) == manifest
    named = f"chronos-venv-{manifest['python']}-{manifest['sha256'][:16]}.squashfs"
    assert manifest["archive"] == cpu_environment.archive.name == named
    assert manifest["bytes"] == cpu_environment.archive.stat().st_size < manifest["unpacked_bytes"] / 2
    assert {pin.partition("==")[0] for pin in manifest["requirements"]} >= {"numpy", "pyarrow", "boto3"}
    here = tuple(int(part) for part in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))
    assert (2, 17) <= tuple(int(part) for part in manifest["glibc"].split(".")) <= here


def test_the_archive_stays_small_enough_to_fetch_at_every_launch(cpu_environment: BuiltEnvironment) -> None:
    assert cpu_environment.manifest["bytes"] <= 100_000_000
