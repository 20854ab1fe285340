"""Uploading results to a fake S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronos_ec2.instance import results_sync
from chronos_ec2.instance.results_sync import ResultsSync, choose_files, settle_seconds

from .conftest import BUCKET, REPOSITORY
from .fakes import FakeS3, Fault

PREFIX = "dev/2025-01-15-143022/"
RESULTS = [
    "checkpoints/notes.txt",
    "forecasts.parquet",
    "logs/checkpoint-7/log.txt",
    "logs/training log.txt",
    "metrics.jsonl",
    "models/model.pkl",
    "training.json",
    "zones.txt",
]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "the output"
    left_out = [
        "checkpoints/checkpoint-9/weights.npz",
        "checkpoints/.tmp-checkpoint-110/weights.npz",
        "checkpoints/.requested",
        ".tmp-training.json",
        "models/.tmp-model.pkl",
    ]
    for name in [*RESULTS, *left_out]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "latest").symlink_to(folder / "checkpoints")
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def sync(s3_client: Any, output: Path) -> ResultsSync:
    return ResultsSync(s3_client, BUCKET, PREFIX, output, sleep=lambda _: None)


def test_results_are_chosen_and_the_record_comes_last(output: Path) -> None:
    names = [str(name) for name in choose_files(output)]
    assert sorted(names) == sorted([*RESULTS, "empty"])
    assert names[-1] == "training.json"


def test_everything_arrives_and_the_record_last(s3: FakeS3, sync: ResultsSync) -> None:
    report = sync.run()
    expected = {f"{BUCKET}/{PREFIX}{name}": name.encode() for name in RESULTS}
    assert s3.objects == {**expected, f"{BUCKET}/{PREFIX}empty": b""}
    assert (report.files, report.bytes, report.failures) == (9, sum(map(len, RESULTS)), ())
    assert [key for method, key in s3.requests if method == "PUT"][-1].endswith("training.json")


def test_a_hiccup_is_tried_again(s3: FakeS3, sync: ResultsSync) -> None:
    s3.faults.append(Fault("PUT", "model.pkl", 400, "BadDigest", times=2))
    assert sync.run().failures == ()


def test_a_file_that_fails_is_named_and_keeps_nothing_back(s3: FakeS3, sync: ResultsSync) -> None:
    s3.faults.append(Fault("PUT", "model.pkl", 400, "BadDigest"))
    report = sync.run()
    assert len(report.failures) == 1 and "models/model.pkl" in report.failures[0]
    assert len(s3.objects) == 8 and not report.denied


def test_an_object_of_another_size_is_a_failure(s3: FakeS3, s3_client: Any, output: Path) -> None:
    class Lossy:
        """Loses the last byte of the model on its way."""

        def upload_file(self, path: str, bucket: str, key: str, **_: Any) -> None:
            body = Path(path).read_bytes()
            s3_client.put_object(Bucket=bucket, Key=key, Body=body[:-1] if "model" in key else body)

        def head_object(self, **where: str) -> Any:
            return s3_client.head_object(**where)

    report = ResultsSync(Lossy(), BUCKET, PREFIX, output, sleep=lambda _: None).run()
    assert [failure.split(";")[0] for failure in report.failures] == [
        "models/model.pkl: 15 bytes arrived of 16"
    ]


ODD_NAMES = [
    b"caf\xe9.txt",
    b"\xff",
    b"a\nb",
    b"-rf",
    b"..x",
    b"x" * 255,
    "é".encode() * 127,
    b"\x1b[2J",
    b"?&#%41",
    b" ",
]
NAMES = (
    (st.binary(min_size=1, max_size=40) | st.sampled_from(ODD_NAMES))
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b"..", b".requested") and not name.startswith(b".tmp"))
)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 names alone")
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), deep=st.booleans())
def test_a_file_of_any_name_arrives_or_is_named_and_keeps_nothing_back(
    s3: FakeS3, s3_client: Any, tmp_path_factory: pytest.TempPathFactory, names: list[bytes], deep: bool
) -> None:
    output = tmp_path_factory.mktemp("output")
    inner = ["deep" * 60] * 4 if deep else []
    folder = output.joinpath("models", *inner)
    folder.mkdir(parents=True)
    (output / "training.json").write_text("{}")
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(name)
    s3.objects.clear()
    report = ResultsSync(s3_client, BUCKET, PREFIX, output, sleep=lambda _: None).run()
    keys = {f"{BUCKET}/{PREFIX}{'/'.join(['models', *inner])}/".encode() + name: name for name in names}
    fit = {key: name for key, name in keys.items() if len(key) - len(BUCKET) - 1 <= 1024 and is_utf_8(name)}
    assert {key.encode(): body for key, body in s3.objects.items()} == {
        **fit,
        f"{BUCKET}/{PREFIX}training.json".encode(): b"{}",
    }
    assert report.failures == () and len(report.left_out) == len(names) - len(fit)
    assert all(line.isprintable() for line in report.left_out)


def is_utf_8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 names alone")
def test_a_name_that_is_no_text_is_said_and_is_no_failure(
    s3: FakeS3, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    for name in (b"models/caf\xe9.txt", b"checkpoints/checkpoint-9/caf\xe9.npz"):
        (output / os.fsdecode(name)).write_text("weights")
    (output / "training.json").write_text('{"exit_code": 0}')
    assert results_sync.main(["--bucket", BUCKET, "--prefix", PREFIX, "--from", str(output)]) == 0
    assert {key.removeprefix(f"{BUCKET}/{PREFIX}") for key in s3.objects} == {*RESULTS, "empty"}
    said = capsys.readouterr().err
    assert "'models/caf\\xe9.txt' is left out: its name is not UTF-8" in said
    assert "checkpoint-9 is left out, all of it: 'caf\\xe9.npz' cannot come along" in said


def test_the_command_line(s3: FakeS3, output: Path) -> None:
    environment = {**os.environ, **s3.environment(), "PYTHONPATH": str(REPOSITORY / "python")}
    argv = [sys.executable, "-m", "chronos_ec2.instance.results_sync", "--bucket", BUCKET]

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*argv, *flags], env=environment, capture_output=True, text=True, timeout=20)

    (output / "training.json").write_text('{"exit_code": 0}')
    done = run("--prefix", "/dev/2025-01-15-143022", "--from", str(output))
    assert done.returncode == 0 and done.stdout == ""
    assert "9 files, 138 bytes" in done.stderr
    sent = [key.removeprefix(f"{BUCKET}/{PREFIX}") for method, key in s3.requests if method == "PUT"]
    # a machine that is taken away has time for the checkpoint at least
    assert sent[:2] == ["checkpoints/checkpoint-9/weights.npz", "checkpoints/checkpoint-9/manifest.json"]
    assert sent[-1] == "training.json"
    s3.faults.append(Fault("PUT", "model.pkl", 403, "AccessDenied"))
    done = run("--prefix", PREFIX, "--from", str(output))
    assert done.returncode == 15
    assert "uploading models/model.pkl" in done.stderr and "1 uploads FAILED" in done.stderr
    assert run("--prefix", "/", "--from", str(output)).returncode == 2
    assert run("--prefix", PREFIX, "--from", "/no/such/folder").returncode == 2


@pytest.mark.parametrize(
    ("document", "settles"),
    [
        ({"exit_code": 0, "status": "completed"}, False),
        ({"exit_code": 75, "status": "interrupted"}, False),
        ({"exit_code": 1, "status": "interrupted"}, False),  # torchrun's, after its workers have saved
        ({"exit_code": 137, "status": "interrupted"}, True),
        ({"exit_code": 1, "status": "failed"}, True),
        ({"exit_code": None, "status": "running"}, True),
        ([], True),
    ],
)
def test_a_checkpoint_of_a_trainer_that_was_not_cut_off_need_not_settle(
    tmp_path: Path, document: object, settles: bool
) -> None:
    (tmp_path / "training.json").write_text(json.dumps(document))
    assert (settle_seconds(tmp_path) > 0) == settles
