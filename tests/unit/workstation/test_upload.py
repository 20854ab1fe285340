"""Uploads: unchanged is not sent, a manifest never names what is not there, broken data never leaves."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import DataInvalid, NotUploaded, StorageDenied
from chronos_ec2.workstation import content as content_module
from chronos_ec2.workstation.transfer import look, send_all
from chronos_ec2.workstation.upload import (
    UploadSummary,
    upload_data,
    upload_environment,
    upload_scripts,
)

SCRIPTS = "cached-datasets/scripts/"
ENVIRONMENT = "cached-datasets/python-env/"
DATA = "cached-datasets/training-data/"
ARCHIVE = "chronos-venv-3.11.7.tar.gz"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small working tree."""
    root = tmp_path / "tree with space"
    for name in (
        "shell/bootstrap.sh",
        "shell/launch_training.sh",
        "shell/lib/state_helpers.sh",
        "shell/lib/state_schema.jq",
        "python/preflight_check.py",
        "python/training_wrapper.py",
        "python/chronos_ec2/__init__.py",
        "python/chronos_ec2/errors.py",
        "python/chronos_ec2/exit_codes.py",
        "python/chronos_ec2/metrics_log.py",
        "python/chronos_ec2/pieces_digest.py",
        "python/chronos_ec2/start_model.py",
        "python/chronos_ec2/training_settings.py",
        "python/chronos_ec2/words.py",
        "python/chronos_ec2/report/page.py",
        "templates/report/report.js",
        "python/chronos_ec2/data/series.py",
        "python/chronos_ec2/state/state_machine.json",
        "python/chronos_ec2/state/store.py",
        "python/chronos_ec2/state/__pycache__/store.cpython-311.pyc",
        "python/chronos_ec2/instance/trainers/linear_quantile.py",
        "python/chronos_ec2/instance/.hidden",
        "python/chronos_ec2/workstation/watch.py",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return root


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A built training environment."""
    folder = tmp_path / "env"
    folder.mkdir()
    pack(folder, b"archive")
    return folder


def pack(folder: Path, content: bytes, **more: Any) -> None:
    (folder / ARCHIVE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    described = {
        "archive": ARCHIVE,
        "sha256": digest,
        "pieces_sha256": "e" * 64,
        "bytes": len(content),
        **more,
    }
    (folder / "MANIFEST.json").write_text(json.dumps(described))


def parquet(folder: Path, name: str, *, rows: int = 200, item: str = "a", value: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    start = datetime(2024, 1, 1)
    table = pa.table(
        {
            "item_id": [item] * rows,
            "timestamp": pa.array([start + timedelta(hours=n) for n in range(rows)], pa.timestamp("us")),
            "target": [value] * rows,
        }
    )
    pq.write_table(table, folder / name)
    return folder / name


def send_data(world: Any, folder: Path, out: io.StringIO | None = None) -> UploadSummary:
    return upload_data(
        world.s3, world.bucket, folder, 100, Columns(), out=out or io.StringIO(), now=world.clock.now
    )


class Died(BaseException):
    """The upload's process is gone."""


class Dying:
    """An S3 client whose process ends at a request, before S3 hears of it."""

    def __init__(self, s3: Any, ends_at: Callable[[str, dict[str, Any]], bool]) -> None:
        self._s3, self._ends_at = s3, ends_at

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._s3, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._ends_at(name, kwargs):
                raise Died
            return real(*args, **kwargs)

        return call


class Told:
    """What an upload says of its progress."""

    def __init__(self) -> None:
        self.planned, self.sent = (0, 0), 0
        self.files: list[str] = []
        self._lock = Lock()

    def of(self, files: int, size: int) -> Any:
        self.planned = (files, size)
        return nullcontext()

    def advance(self, size: int) -> None:
        with self._lock:
            self.sent += size

    def end_file(self, name: str) -> None:
        self.files.append(name)


def during_upload(world: Any, action: Callable[[], object]) -> Any:
    """The world's S3 client with something that happens right after each upload."""

    class Client:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.s3, name)

        def put_object(self, **kwargs: Any) -> Any:
            answer = world.s3.put_object(**kwargs)
            if "MANIFEST" not in kwargs["Key"]:
                action()
            return answer

    return Client()


# Failures


def test_a_refused_upload_writes_no_manifest(world: Any, tree: Path) -> None:
    world.s3.fail("put_object", "AccessDenied")
    with pytest.raises(StorageDenied):
        upload_scripts(world.s3, world.bucket, tree)
    assert f"{SCRIPTS}MANIFEST.sha256" not in world.keys(SCRIPTS)


def test_a_refused_look_is_not_taken_for_absence(world: Any, tree: Path) -> None:
    world.s3.fail("get_paginator", "403")
    with pytest.raises(StorageDenied):
        upload_scripts(world.s3, world.bucket, tree)


def test_an_upload_that_does_not_arrive_whole_is_noticed(world: Any, built: Path) -> None:
    class Cutting:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.s3, name)

        def put_object(self, **kwargs: Any) -> Any:
            return world.s3.put_object(**kwargs | {"Body": kwargs["Body"][:4]})

    client: Any = Cutting()
    with pytest.raises(NotUploaded, match="did not arrive whole"):
        upload_environment(client, world.bucket, built)
    assert f"{ENVIRONMENT}MANIFEST.json" not in world.keys(ENVIRONMENT)


@pytest.mark.parametrize("action", ["touch", "replace", "delete"])
def test_a_file_that_changes_while_it_is_sent_is_noticed(world: Any, tmp_path: Path, action: str) -> None:
    path = parquet(tmp_path / "data", "a.parquet")

    def change() -> None:
        if action == "touch":
            path.write_bytes(path.read_bytes())
        elif action == "replace":
            parquet(tmp_path / "data", "a.parquet", value=2.0)
        else:
            path.unlink()

    with pytest.raises(NotUploaded, match=r"changed while it was uploaded: .*a\.parquet"):
        send_data(type("W", (), {**world.__dict__, "s3": during_upload(world, change)}), tmp_path / "data")
    assert f"{DATA}MANIFEST.json" not in world.keys(DATA)


def test_a_file_that_changes_between_the_check_and_the_upload_is_noticed(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chronos_ec2.workstation import upload

    path = parquet(tmp_path / "data", "a.parquet")
    real = upload.check_dataset

    def check(*arguments: Any, **options: Any) -> Any:
        report = real(*arguments, **options)
        parquet(tmp_path / "data", path.name, value=2.0)
        return report

    monkeypatch.setattr(upload, "check_dataset", check)
    with pytest.raises(NotUploaded, match="changed while"):
        send_data(world, tmp_path / "data")


def test_a_missing_script_is_named(world: Any, tree: Path) -> None:
    (tree / "shell/bootstrap.sh").unlink()
    with pytest.raises(NotUploaded, match=r"shell/bootstrap\.sh"):
        upload_scripts(world.s3, world.bucket, tree)
    assert world.s3.calls == []


def test_a_folder_that_is_not_the_repository_is_said(world: Any, tmp_path: Path) -> None:
    with pytest.raises(NotUploaded, match="root of this repository"):
        upload_scripts(world.s3, world.bucket, tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "MANIFEST.json").unlink(),
        lambda folder: (folder / ARCHIVE).unlink(),
        lambda folder: (folder / ARCHIVE).write_bytes(b"corrupt"),
        lambda folder: (folder / "MANIFEST.json").write_text("{}"),
        lambda folder: (folder / "MANIFEST.json").write_text(
            '{"archive": "../x", "sha256": "0", "pieces_sha256": "0"}'
        ),
        lambda folder: (folder / "MANIFEST.json").write_text(
            json.dumps({"archive": ARCHIVE, "sha256": hashlib.sha256(b"archive").hexdigest()})
        ),
    ],
)
def test_an_environment_that_is_not_whole_is_not_sent(world: Any, built: Path, spoil: Any) -> None:
    spoil(built)
    with pytest.raises(NotUploaded, match="invoke build-env"):
        upload_environment(world.s3, world.bucket, built)
    assert world.keys() == []


def test_an_environment_for_other_machines_is_not_sent(world: Any, built: Path) -> None:
    body = json.loads((built / "MANIFEST.json").read_text())
    (built / "MANIFEST.json").write_text(json.dumps({**body, "machine": "aarch64"}))
    with pytest.raises(NotUploaded, match=r"built for aarch64.*--platform linux-x86-64"):
        upload_environment(world.s3, world.bucket, built)
    assert world.keys() == []
    assert upload_environment(world.s3, world.bucket, built, machines=["aarch64"]).sent == 1


def test_an_archive_outside_its_folder_is_not_sent(world: Any, built: Path) -> None:
    (built.parent / "secret").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (built / "MANIFEST.json").write_text(
        json.dumps({"archive": "../secret", "sha256": digest, "pieces_sha256": ""})
    )
    with pytest.raises(NotUploaded):
        upload_environment(world.s3, world.bucket, built)
    assert world.keys() == []


def test_invalid_data_is_not_sent_and_every_error_is_listed(world: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "data" / "b.parquet").write_bytes(b"")
    with pytest.raises(DataInvalid) as caught:
        send_data(world, tmp_path / "data")
    assert "a.parquet" in str(caught.value) and "b.parquet" in str(caught.value)
    assert world.s3.calls == []


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_data_is_invalid(world: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataInvalid):
        send_data(world, tmp_path / name)


# Scripts


def test_the_scripts_lie_as_the_instance_expects_them(world: Any, tree: Path) -> None:
    summary = upload_scripts(world.s3, world.bucket, tree)
    names = {key.removeprefix(SCRIPTS) for key in world.keys(SCRIPTS)}
    assert names == {
        "MANIFEST.sha256",
        "bootstrap.sh",
        "lib/state_helpers.sh",
        "lib/state_schema.jq",
        "preflight_check.py",
        "training_wrapper.py",
        "chronos_ec2/__init__.py",
        "chronos_ec2/errors.py",
        "chronos_ec2/exit_codes.py",
        "chronos_ec2/metrics_log.py",
        "chronos_ec2/pieces_digest.py",
        "chronos_ec2/start_model.py",
        "chronos_ec2/training_settings.py",
        "chronos_ec2/words.py",
        "chronos_ec2/report/page.py",
        "report/report.js",
        "chronos_ec2/data/series.py",
        "chronos_ec2/state/state_machine.json",
        "chronos_ec2/state/store.py",
        "chronos_ec2/instance/trainers/linear_quantile.py",
    }
    assert (summary.sent, summary.unchanged) == (19, 0)
    manifest = world.get(f"{SCRIPTS}MANIFEST.sha256")
    assert summary.manifest_sha256 == hashlib.sha256(manifest).hexdigest()


def test_sha256sum_accepts_the_manifest(world: Any, tree: Path, tmp_path: Path) -> None:
    upload_scripts(world.s3, world.bucket, tree)
    for key in world.keys(SCRIPTS):
        path = tmp_path / "instance" / key.removeprefix(SCRIPTS)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.get(key))
    command = ["sha256sum", "--check", "--quiet", "--strict", "MANIFEST.sha256"]
    subprocess.run(command, cwd=tmp_path / "instance", check=True)
    lines = (tmp_path / "instance" / "MANIFEST.sha256").read_text().splitlines()
    assert [line[66:] for line in lines] == sorted(line[66:] for line in lines)


def test_only_changed_scripts_are_sent_again(world: Any, tree: Path) -> None:
    first = upload_scripts(world.s3, world.bucket, tree)
    world.s3.calls.clear()
    again = upload_scripts(world.s3, world.bucket, tree)
    assert (again.sent, again.unchanged, again.bytes) == (0, 19, 0)
    assert again.manifest_sha256 == first.manifest_sha256
    assert not {"head_object", "put_object", "delete_object"} & set(world.s3.calls)
    (tree / "shell/bootstrap.sh").write_text("# changed\n")
    third = upload_scripts(world.s3, world.bucket, tree)
    assert (third.sent, third.bytes) == (1, 10)
    assert world.get(f"{SCRIPTS}bootstrap.sh") == b"# changed\n"


def test_a_script_that_is_no_longer_there_leaves_the_bucket(world: Any, tree: Path) -> None:
    upload_scripts(world.s3, world.bucket, tree)
    world.put(f"{DATA}a.parquet", b"not a script")
    (tree / "python/chronos_ec2/state/store.py").unlink()
    upload_scripts(world.s3, world.bucket, tree)
    assert f"{SCRIPTS}chronos_ec2/state/store.py" not in world.keys(SCRIPTS)
    assert b"store.py" not in world.get(f"{SCRIPTS}MANIFEST.sha256")
    assert world.keys(DATA) == [f"{DATA}a.parquet"]


def test_programs_that_this_machine_cannot_make_stay_in_the_bucket_and_in_its_manifest(
    world: Any, tree: Path, tmp_path: Path
) -> None:
    tools = {f"bin/{name}": tmp_path / name for name in ("jq", "libjq.so.1", "s5cmd")}
    for path in tools.values():
        path.write_text(f"a program called {path.name}")
    upload_scripts(world.s3, world.bucket, tree, tools=tools)
    of_linux = world.get(f"{SCRIPTS}MANIFEST.sha256")
    upload_scripts(world.s3, world.bucket, tree, keep_tools=True)
    assert world.get(f"{SCRIPTS}MANIFEST.sha256") == of_linux
    tools["bin/s5cmd"].write_text("a newer one")
    upload_scripts(world.s3, world.bucket, tree, tools={"bin/s5cmd": tools["bin/s5cmd"]}, keep_tools=True)
    assert world.keys(f"{SCRIPTS}bin/") == [f"{SCRIPTS}{name}" for name in tools]
    newer = hashlib.sha256(b"a newer one").hexdigest()
    assert f"{newer}  bin/s5cmd\n".encode() in world.get(f"{SCRIPTS}MANIFEST.sha256")
    upload_scripts(world.s3, world.bucket, tree)
    assert world.keys(f"{SCRIPTS}bin/") == []


# Environment


def test_an_unchanged_environment_is_not_sent_again(world: Any, built: Path) -> None:
    assert upload_environment(world.s3, world.bucket, built).sent == 1
    world.s3.calls.clear()
    again = upload_environment(world.s3, world.bucket, built)
    assert (again.sent, again.unchanged) == (0, 1)
    assert not {"head_object", "put_object"} & set(world.s3.calls)
    pack(built, b"another archive")
    assert upload_environment(world.s3, world.bucket, built).sent == 1
    assert world.get(f"{ENVIRONMENT}{ARCHIVE}") == b"another archive"
    assert world.get(f"{ENVIRONMENT}MANIFEST.json") == (built / "MANIFEST.json").read_bytes()


@pytest.mark.parametrize("spoil", ["delete", "corrupt", "cut"])
def test_an_archive_that_is_not_what_the_manifest_says_is_sent_again(
    world: Any, built: Path, spoil: str
) -> None:
    upload_environment(world.s3, world.bucket, built)
    key = f"{ENVIRONMENT}{ARCHIVE}"
    if spoil == "delete":
        world.real_s3.delete_object(Bucket=world.bucket, Key=key)
    else:
        world.put(key, b"ARCHIVE" if spoil == "corrupt" else b"arch")
    assert upload_environment(world.s3, world.bucket, built).sent == 1
    assert world.get(key) == b"archive"


def test_a_rebuilt_manifest_of_the_same_archive_is_written(world: Any, built: Path) -> None:
    upload_environment(world.s3, world.bucket, built)
    pack(built, b"archive", built_at="later")
    assert upload_environment(world.s3, world.bucket, built).sent == 0
    assert b"later" in world.get(f"{ENVIRONMENT}MANIFEST.json")


def test_a_large_archive_goes_in_parts_and_reports_its_progress(
    world: Any, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "PART_BYTES", 5 << 20)
    content = bytes(range(256)) * (12 << 12)
    pack(built, content)
    told = Told()
    upload_environment(world.s3, world.bucket, built, progress=told)
    assert world.get(f"{ENVIRONMENT}{ARCHIVE}") == content
    assert world.real_s3.head_object(Bucket=world.bucket, Key=f"{ENVIRONMENT}{ARCHIVE}")["ETag"].endswith(
        '-3"'
    )
    assert (told.planned, told.sent, told.files) == ((1, len(content)), len(content), [ARCHIVE])
    assert upload_environment(world.s3, world.bucket, built).sent == 0


# Data


def test_data_is_described_by_its_manifest(world: Any, tmp_path: Path) -> None:
    one = parquet(tmp_path / "data", "one.parquet")
    parquet(tmp_path / "data", "two files.parquet", item="b", rows=150)
    summary = send_data(world, tmp_path / "data")
    assert (summary.sent, summary.unchanged) == (2, 0)
    manifest = json.loads(world.get(f"{DATA}MANIFEST.json"))
    assert (manifest["rows"], manifest["series"]) == (350, 2)
    world.clock.pass_time(60)
    send_data(world, tmp_path / "data")
    assert json.loads(world.get(f"{DATA}MANIFEST.json")) == manifest, "whenever the same data are sent"
    first, second = manifest["files"]
    assert first == {
        "name": "one.parquet",
        "bytes": one.stat().st_size,
        "sha256": hashlib.sha256(one.read_bytes()).hexdigest(),
        "rows": 200,
        "series": 1,
    }
    assert second["name"] == "two files.parquet"
    assert world.get(f"{DATA}two files.parquet") == (tmp_path / "data/two files.parquet").read_bytes()


def test_unchanged_data_keeps_its_manifest_to_the_byte(world: Any, tmp_path: Path) -> None:
    parquet(tmp_path / "data", "a.parquet")
    first = send_data(world, tmp_path / "data")
    world.clock.pass_time(3600)
    world.s3.calls.clear()
    again = send_data(world, tmp_path / "data")
    assert (again.sent, again.manifest_sha256) == (0, first.manifest_sha256)
    assert not {"head_object", "put_object"} & set(world.s3.calls)


def test_only_changed_data_is_sent_and_removed_files_leave_the_manifest(world: Any, tmp_path: Path) -> None:
    parquet(tmp_path / "data", "a.parquet")
    parquet(tmp_path / "data", "b.parquet", item="b")
    parquet(tmp_path / "data", "c.parquet", item="c")
    send_data(world, tmp_path / "data")
    parquet(tmp_path / "data", "b.parquet", item="b", value=7.0)
    (tmp_path / "data" / "c.parquet").unlink()
    summary = send_data(world, tmp_path / "data")
    assert (summary.sent, summary.unchanged) == (1, 1)
    manifest = json.loads(world.get(f"{DATA}MANIFEST.json"))
    assert [item["name"] for item in manifest["files"]] == ["a.parquet", "b.parquet"]


def test_a_broken_manifest_in_the_bucket_is_replaced(world: Any, tmp_path: Path) -> None:
    parquet(tmp_path / "data", "a.parquet")
    world.put(f"{DATA}MANIFEST.json", b"{half")
    send_data(world, tmp_path / "data")
    assert json.loads(world.get(f"{DATA}MANIFEST.json"))["rows"] == 200


def test_a_file_that_came_back_after_a_broken_upload_is_sent_again(world: Any, tmp_path: Path) -> None:
    old = parquet(tmp_path / "data", "a.parquet").read_bytes()
    send_data(world, tmp_path / "data")
    parquet(tmp_path / "data", "a.parquet", value=2.0)
    broken = Dying(world.s3, lambda name, kwargs: name == "put_object" and "MANIFEST" in kwargs["Key"])
    with pytest.raises(Died):
        send_data(type("W", (), {**world.__dict__, "s3": broken}), tmp_path / "data")
    (tmp_path / "data" / "a.parquet").write_bytes(old)
    assert send_data(world, tmp_path / "data").sent == 1
    assert world.get(f"{DATA}a.parquet") == old


def test_warnings_are_printed_and_do_not_stop_the_upload(world: Any, tmp_path: Path) -> None:
    parquet(tmp_path / "data", "a.parquet")
    (tmp_path / "data" / "notes.txt").write_text("x")
    out = io.StringIO()
    assert send_data(world, tmp_path / "data", out).sent == 1
    assert "warning: notes.txt" in out.getvalue()
    assert f"{DATA}notes.txt" not in world.keys(DATA)


def test_a_changed_byte_in_one_of_ten_thousand_files_sends_one_file(world: Any, tmp_path: Path) -> None:
    stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    names = [f"part-{number:05d}.parquet" for number in range(10_000)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 20)
        stored.put_object(world.bucket, f"{DATA}{name}", name.encode() * 20)
    world.put(f"{DATA}MANIFEST.json", b"{}")
    changed = names[6_789]
    (tmp_path / changed).write_bytes(changed.encode() * 19 + b"?" * len(changed))
    files = [look(name, tmp_path / name) for name in names]
    sent = send_all(world.s3, world.bucket, DATA, files, None, manifest=f"{DATA}MANIFEST.json")
    assert [file.name for file, was_sent in zip(files, sent, strict=True) if was_sent] == [changed]
    # One listing, the manifest withdrawn, one file: nothing is asked about the others.
    assert world.s3.calls == ["get_paginator", "head_object", "delete_object", "put_object"]
    assert world.get(f"{DATA}{changed}").endswith(b"??")
