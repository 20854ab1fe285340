"""Fetching a run: whole files or none, nothing outside the folder, nothing twice."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chronos_ec2.errors import ChronosError, NoSuchRun, StorageDenied, UsageProblem
from chronos_ec2.workstation import fetch as subject
from chronos_ec2.workstation.fetch import FetchSummary, fetch
from chronos_ec2.workstation.s3 import StorageUnreachable

RUN = "2025-01-15-143022"


def get(world: Any, into: Path, **more: Any) -> FetchSummary:
    return fetch(world.s3, world.bucket, "dev", **{"into": into, "out": io.StringIO(), **more})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_that_is_not_there_is_named_with_the_ones_that_are(world: Any, tmp_path: Path) -> None:
    for day in range(1, 15):
        world.end_run("succeeded", f"2025-01-{day:02d}-000000")
    with pytest.raises(NoSuchRun) as caught:
        get(world, tmp_path, run_id=RUN)
    assert "2025-01-14-000000" in str(caught.value)
    assert "2025-01-01-000000" not in str(caught.value)
    assert "4 older" in str(caught.value)
    assert files(tmp_path) == {}


def test_an_environment_without_runs_is_said(world: Any, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun, match="no run yet"):
        get(world, tmp_path)


def test_what_is_no_run_id_is_refused(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem):
        get(world, tmp_path, run_id="..")


@pytest.mark.parametrize(
    ("error", "kind"),
    [("403", StorageDenied), (EndpointConnectionError(endpoint_url="https://s3"), StorageUnreachable)],
)
def test_a_download_that_fails_leaves_no_half_file(
    world: Any, tmp_path: Path, error: Any, kind: type[ChronosError]
) -> None:
    world.end_run("succeeded")
    world.s3.fail("download_fileobj", error)
    with pytest.raises(kind):
        get(world, tmp_path)
    assert files(tmp_path) == {}


def test_a_file_whose_download_breaks_off_keeps_its_old_content(world: Any, tmp_path: Path) -> None:
    world.put(f"dev/{RUN}/model.pkl", b"new content")
    local = tmp_path / RUN / "model.pkl"
    local.parent.mkdir()
    local.write_bytes(b"old")

    def half(_bucket: str, _key: str, file: Any, **_: Any) -> None:
        file.write(b"new")
        raise EndpointConnectionError(endpoint_url="https://s3")

    real = world.s3
    client = type(
        "Half",
        (),
        {"__getattr__": lambda _, name: getattr(real, name), "download_fileobj": staticmethod(half)},
    )()
    with pytest.raises(StorageUnreachable):
        fetch(client, world.bucket, "dev", into=tmp_path, out=io.StringIO())
    assert files(tmp_path) == {f"{RUN}/model.pkl": b"old"}


@pytest.mark.parametrize(
    "name", ["../escape", "a/../../escape", "/etc/escape", "a//b", "./x", "a/./b", "..\\escape", "a/.."]
)
def test_a_key_that_would_leave_the_folder_is_refused_and_the_rest_is_fetched(
    world: Any, tmp_path: Path, name: str
) -> None:
    world.end_run("succeeded")
    world.put(f"dev/{RUN}/{name}", b"evil")
    out = io.StringIO()
    summary = get(world, tmp_path / "results", out=out)
    assert summary.refused == (f"dev/{RUN}/{name}",)
    assert "refused" in out.getvalue()
    assert list(files(tmp_path)) == [f"results/{RUN}/run.json"]


def test_a_symlink_in_the_folder_is_not_followed_out_of_it(world: Any, tmp_path: Path) -> None:
    world.put(f"dev/{RUN}/models/model.pkl", b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "results" / RUN).mkdir(parents=True)
    (tmp_path / "results" / RUN / "models").symlink_to(outside)
    summary = get(world, tmp_path / "results")
    assert len(summary.refused) == 1
    assert list(outside.iterdir()) == []


def test_a_symlink_in_place_of_a_file_is_replaced_and_not_written_through(world: Any, tmp_path: Path) -> None:
    world.put(f"dev/{RUN}/model.pkl", b"new")
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "model.pkl").symlink_to(victim)
    get(world, tmp_path)
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / RUN / "model.pkl").read_bytes() == b"new"


def test_a_folder_that_cannot_be_written_is_said(world: Any, tmp_path: Path) -> None:
    world.end_run("succeeded")
    (tmp_path / RUN).write_text("a file where the folder should be")
    with pytest.raises(ChronosError, match="cannot write"):
        get(world, tmp_path)


def test_the_whole_run_and_its_phase_log_arrive(world: Any, tmp_path: Path) -> None:
    world.end_run("succeeded")
    world.put(f"dev/{RUN}/models/model.pkl", os.urandom(100_000))
    world.put(f"dev/{RUN}/checkpoints/checkpoint-20/state bin ü", b"state")
    world.put(f"dev/{RUN}/logs/bootstrap.log", b"log")
    world.put(f"dev/{RUN}/empty/", b"")
    world.put(f"logs/{RUN}/phase_logs.json", b"{}")
    world.put("dev/2025-01-15-1430220/other", b"not this run")
    out = io.StringIO()
    summary = get(world, tmp_path / "new" / "folder", out=out)
    assert (summary.fetched, summary.unchanged, summary.refused) == (5, 0, ())
    folder = tmp_path / "new" / "folder" / RUN
    assert summary.folder == folder
    assert files(folder).keys() == {
        "run.json",
        "models/model.pkl",
        "checkpoints/checkpoint-20/state bin ü",
        "logs/bootstrap.log",
        "logs/phase_logs.json",
    }
    assert files(folder)["models/model.pkl"] == world.get(f"dev/{RUN}/models/model.pkl")
    assert "5 files fetched (100." in out.getvalue()


def test_what_is_there_already_is_not_fetched_again(world: Any, tmp_path: Path) -> None:
    world.end_run("succeeded")
    world.put(f"dev/{RUN}/a", b"aaaa")
    world.put(f"dev/{RUN}/b", b"bbbb")
    get(world, tmp_path)
    world.put(f"dev/{RUN}/a", b"AAAA")
    (tmp_path / RUN / "b").write_bytes(b"edit")
    world.s3.calls.clear()
    summary = get(world, tmp_path)
    assert (summary.fetched, summary.unchanged) == (2, 1)
    assert world.s3.calls.count("download_fileobj") == 2
    assert (files(tmp_path / RUN)["a"], files(tmp_path / RUN)["b"]) == (b"AAAA", b"bbbb")


def test_an_object_sent_in_parts_is_recognised_by_its_time(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subject.list_prefix

    def yesterday(*arguments: Any) -> Any:
        return [replace(item, modified=item.modified - timedelta(days=1)) for item in real(*arguments)]

    monkeypatch.setattr(subject, "list_prefix", yesterday)
    key, part = f"dev/{RUN}/model.pkl", b"x" * (5 << 20)
    upload = world.real_s3.create_multipart_upload(Bucket=world.bucket, Key=key)["UploadId"]
    sent = [
        {
            "PartNumber": number,
            "ETag": world.real_s3.upload_part(
                Bucket=world.bucket, Key=key, UploadId=upload, PartNumber=number, Body=part
            )["ETag"],
        }
        for number in (1, 2)
    ]
    world.real_s3.complete_multipart_upload(
        Bucket=world.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": sent}
    )
    assert get(world, tmp_path).fetched == 1
    assert get(world, tmp_path).unchanged == 1
    assert (tmp_path / RUN / "model.pkl").read_bytes() == part * 2
    local = tmp_path / RUN / "model.pkl"
    moment = local.stat().st_mtime
    local.write_bytes(b"cut")
    os.utime(local, (moment, moment))
    assert get(world, tmp_path).fetched == 1
    os.utime(local, (1, 1))
    assert get(world, tmp_path).fetched == 1


def test_a_checkpoint_that_vanishes_meanwhile_is_told(world: Any, tmp_path: Path) -> None:
    world.put(f"dev/{RUN}/checkpoints/checkpoint-1/x", b"x")
    world.s3.fail("download_fileobj", "404")
    out = io.StringIO()
    summary = get(world, tmp_path, out=out)
    assert summary.vanished == ("checkpoints/checkpoint-1/x",)
    assert "checkpoint-1/x was deleted" in out.getvalue()
    assert files(tmp_path) == {}


def test_an_object_that_changes_between_its_parts_is_fetched_again(world: Any, tmp_path: Path) -> None:
    from s3transfer.exceptions import S3DownloadFailedError

    world.put(f"dev/{RUN}/log", b"whole")
    world.s3.fail("download_fileobj", S3DownloadFailedError("changed"), times=2)
    assert get(world, tmp_path).fetched == 1
    world.put(f"dev/{RUN}/log", b"other")
    world.s3.fail("download_fileobj", S3DownloadFailedError("changed"), times=99)
    with pytest.raises(StorageUnreachable, match="keeps changing"):
        get(world, tmp_path)
    assert files(tmp_path) == {f"{RUN}/log": b"whole"}


def test_a_name_that_is_file_and_folder_at_once_is_refused_and_the_rest_is_fetched(
    world: Any, tmp_path: Path
) -> None:
    world.end_run("succeeded")
    world.put(f"dev/{RUN}/a/b", b"x")
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "a").write_text("a file")
    out = io.StringIO()
    summary = get(world, tmp_path, out=out)
    assert summary.refused == (f"dev/{RUN}/a/b",) and "no file here can have that name" in out.getvalue()
    assert (tmp_path / RUN / "run.json").exists()


@pytest.mark.parametrize("name", ["x" * 256, "é" * 200, f"{'x' * 300}/model.pkl"])
def test_a_name_that_no_file_can_have_is_refused_and_the_rest_is_fetched(
    world: Any, tmp_path: Path, name: str
) -> None:
    world.end_run("succeeded")
    world.put(f"dev/{RUN}/{name}", b"x")
    assert get(world, tmp_path).refused == (f"dev/{RUN}/{name}",)
    assert list(files(tmp_path)) == [f"{RUN}/run.json"]


# -- metrics --------------------------------------------------------------------------------------------


def metric(step: int, loss: float | None, second: int) -> str:
    event = {
        "event": "metric",
        "step": step,
        "loss": loss,
        "note": "x",
        "t": f"2025-01-15T14:40:{second:02d}Z",
    }
    return json.dumps(event) + "\n"


def sample(second: int, util: int) -> str:
    gpus = [{"index": 1, "util_percent": util, "power_watts": None}]
    row = {"t": f"2025-01-15T14:40:{second:02d}Z", "source": "sampler", "cpu_percent": 40.5, "gpus": gpus}
    return json.dumps(row) + "\n"


MEASURED = (
    metric(10, 2.0, 1)
    + metric(20, 9.0, 2)
    + sample(3, 80)
    + metric(20, 1.5, 8)
    + metric(30, None, 9)
    + sample(13, 90)
)


def read_events(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """TensorBoard's own reading of a folder: (step, value, wall time) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(point.step, point.value, point.wall_time) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_what_trainer_and_machine_have_told(world: Any, tmp_path: Path) -> None:
    world.end_run("succeeded")
    world.put(f"dev/{RUN}/metrics.jsonl", MEASURED)
    out = io.StringIO()
    get(world, tmp_path, out=out)
    begin = datetime(2025, 1, 15, 14, 40, tzinfo=UTC).timestamp()
    assert read_events(tmp_path / RUN / "tensorboard") == {
        "loss": [(10, 2.0, begin + 1), (20, 1.5, begin + 8)],
        "system/cpu_percent": [(0, 40.5, begin + 3), (10, 40.5, begin + 13)],
        "system/gpu_1_util_percent": [(0, 80.0, begin + 3), (10, 90.0, begin + 13)],
    }
    assert f"tensorboard --logdir {tmp_path}" in out.getvalue()


def test_a_second_fetch_leaves_one_event_file(world: Any, tmp_path: Path) -> None:
    world.put_run()
    world.put(f"dev/{RUN}/metrics/00001.jsonl", metric(10, 2.0, 1))
    get(world, tmp_path)
    assert read_events(tmp_path / RUN / "tensorboard")["loss"][-1][:2] == (10, 2.0)
    world.put(f"dev/{RUN}/metrics/00001.jsonl", metric(10, 2.0, 1) + metric(20, 1.0, 2))
    get(world, tmp_path)
    assert [point[:2] for point in read_events(tmp_path / RUN / "tensorboard")["loss"]] == [
        (10, 2.0),
        (20, 1.0),
    ]
    assert len(list((tmp_path / RUN / "tensorboard").iterdir())) == 1


def test_a_run_without_figures_gets_no_event_file(world: Any, tmp_path: Path) -> None:
    world.end_run("failed")
    world.put(f"dev/{RUN}/metrics.jsonl", '{"event": "start", "t": "2025-01-15T14:40:01Z"}\n')
    get(world, tmp_path)
    assert not (tmp_path / RUN / "tensorboard").exists()


def test_a_missing_tensorboard_is_told_and_the_run_is_fetched(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronos_ec2.workstation.event_files.find_spec", lambda _name: None)
    world.put(f"dev/{RUN}/metrics.jsonl", MEASURED)
    out = io.StringIO()
    assert get(world, tmp_path, out=out).fetched == 1
    assert "no tensorboard/ for TensorBoard" in out.getvalue() and "./invokew setup" in out.getvalue()


def test_the_whole_of_the_metrics_takes_the_place_of_their_parts(world: Any, tmp_path: Path) -> None:
    world.put_run()
    world.put(f"dev/{RUN}/metrics/00001.jsonl", MEASURED)
    get(world, tmp_path)
    assert (tmp_path / RUN / "metrics/00001.jsonl").read_text() == MEASURED
    world.put(f"dev/{RUN}/metrics.jsonl", MEASURED)
    get(world, tmp_path)
    assert (tmp_path / RUN / "metrics.jsonl").read_text() == MEASURED
    assert not (tmp_path / RUN / "metrics").exists()
