"""Lock files, by pip's own resolver on a folder of tiny wheels."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation import lock_files


def write_wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a `requirements` folder, and an index that has three packages."""
    wheels, requirements = tmp_path / "wheels", tmp_path / "requirements"
    wheels.mkdir()
    requirements.mkdir()
    write_wheel(wheels, "alpha", "1.0")
    write_wheel(wheels, "alpha", "1.5", "Zulu>=2")
    write_wheel(wheels, "Zulu", "2.1+cpu")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setattr(lock_files, "REPOSITORY", tmp_path)
    return tmp_path


def test_every_in_file_gets_its_lock(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "requirements/a.in").write_text("alpha  # the newest, and what it needs\n")
    assert lock_files.main() == 0
    assert (repository / "requirements/a.lock").read_text() == "alpha==1.5\nZulu==2.1\n"
    assert "a.lock: 2 packages" in capsys.readouterr().out


def test_what_cannot_be_resolved_leaves_the_old_lock(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "requirements/a.in").write_text("alpha>9\n")
    (repository / "requirements/a.lock").write_text("old\n")
    assert lock_files.main() == 1
    assert (repository / "requirements/a.lock").read_text() == "old\n"
    assert "lock: pip cannot resolve" in capsys.readouterr().err


def test_a_requirements_file_that_is_missing_is_named(repository: Path) -> None:
    with pytest.raises(ChronosError, match=r"none\.in"):
        lock_files.resolve(repository / "none.in")


@pytest.mark.parametrize(
    "lock", sorted((lock_files.REPOSITORY / "requirements").glob("*.lock")), ids=lambda f: f.name
)
def test_the_locks_that_ship_pin_every_package_once(lock: Path) -> None:
    lines = lock.read_text().splitlines()
    names = [line.split("==")[0].lower().replace("_", "-") for line in lines]
    assert all(line.count("==") == 1 and " " not in line for line in lines)
    assert len(names) == len(set(names))
    wanted = {
        re.split("[^A-Za-z0-9_-]", line.strip())[0].lower().replace("_", "-")
        for line in lock.with_suffix(".in").read_text().splitlines()
        if re.match("[A-Za-z]", line)
    }
    assert wanted <= set(names)
