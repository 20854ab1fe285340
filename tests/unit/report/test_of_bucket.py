"""The report that the laptop makes of what lies in the bucket."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from chronos_ec2.errors import ChronosError, NoSuchRun, StorageDenied
from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.report import report_of_bucket, report_of_folder

from .conftest import END, RUN, START

BUCKET = "chronos-test"
LATER = END + timedelta(days=1)
FREE = ("disk_gb", "disk_usd_per_gb_month", "address_usd_per_hour", "put_usd_per_1000", "get_usd_per_1000")
RATES = dict.fromkeys(("put_once", "put_per_hour", "get_once", "get_per_hour"), 0.0)
PRICE = {"compute_usd_per_hour": 0.72, **dict.fromkeys(FREE, 0.0), "request_rates": RATES}
GOES_ON = {"outcome": None, "ended_at": None, "cost_usd": None, "price": PRICE}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def keep(s3: Any, folder: Path, **changes: Any) -> None:
    """Put a run's files where the instance puts them: its metrics in parts."""
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if not file.is_file() or name == "metrics.jsonl":
            continue
        body = file.read_bytes()
        if name == "run.json":
            body = json.dumps({**json.loads(body), **changes}).encode()
        s3.put_object(Bucket=BUCKET, Key=f"dev/{RUN}/{name}", Body=body)
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    for number in range(3):
        part = b"".join(lines[number * len(lines) // 3 : (number + 1) * len(lines) // 3])
        s3.put_object(Bucket=BUCKET, Key=f"dev/{RUN}/metrics/{number + 1:06d}.jsonl", Body=part)


def made(s3: Any, into: Path, **more: Any) -> str:
    ec2 = boto3.client("ec2", region_name="us-east-1")
    report_of_bucket(s3, ec2, BUCKET, "dev", into=into, out=io.StringIO(), **{"now": lambda: LATER, **more})
    return into.read_text()


def test_it_is_the_page_of_the_same_run_fetched(s3: Any, plain_run: Path, tmp_path: Path) -> None:
    keep(s3, plain_run)
    out, page = io.StringIO(), tmp_path / "new folder" / "page.html"
    ec2 = boto3.client("ec2", region_name="us-east-1")
    report_of_bucket(s3, ec2, BUCKET, "dev", into=page, out=out, run_id=RUN, now=lambda: LATER)
    fetched = tmp_path / "fetched.html"
    report_of_folder(plain_run, into=fetched, out=io.StringIO(), now=lambda: LATER)
    assert page.read_bytes() == fetched.read_bytes()
    assert out.getvalue() == f"{page}\n"


def test_of_a_run_that_goes_on_it_tells_the_cost_so_far(s3: Any, plain_run: Path, tmp_path: Path) -> None:
    ec2 = boto3.client("ec2", region_name="us-east-1")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    machine = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    keep(s3, plain_run, **GOES_ON, instance={"id": machine})
    text = made(s3, tmp_path / "page.html", now=lambda: START + timedelta(seconds=8, hours=1))
    assert "$0.72" in text and "So far" in text


def test_a_run_whose_machine_is_gone_is_lost_and_costs_no_more_than_until_its_deadline(
    s3: Any, plain_run: Path, tmp_path: Path
) -> None:
    ended = to_text(START + timedelta(seconds=8, minutes=55))
    keep(s3, plain_run, **GOES_ON, instance={"id": "i-0123456789abcdef0"}, deadline=ended)
    text = made(s3, tmp_path / "page.html", now=lambda: START + timedelta(days=12))
    assert "at most $0.72" in text and "So far" not in text and ">lost<" in text


def test_a_folder_that_was_fetched_while_the_run_went_on_is_shown_as_it_was_then(
    plain_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(plain_run, tmp_path / "run")
    body = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**body, **GOES_ON}))
    page = tmp_path / "page.html"
    report_of_folder(run, into=page, out=io.StringIO(), now=lambda: START + timedelta(days=12))
    assert "19 min 50 s" in page.read_text() and "288 h" not in page.read_text()


def test_a_run_with_a_record_alone_has_a_page(s3: Any, tmp_path: Path) -> None:
    body = json.dumps(
        {"run_id": RUN, "environment": "dev", "outcome": "lost", "error": "the machine is gone"}
    )
    s3.put_object(Bucket=BUCKET, Key=f"dev/{RUN}/run.json", Body=body.encode())
    assert "the machine is gone" in made(s3, tmp_path / "page.html")


def test_a_run_that_is_not_there_is_named_with_those_that_are(
    s3: Any, plain_run: Path, tmp_path: Path
) -> None:
    keep(s3, plain_run)
    with pytest.raises(NoSuchRun, match=RUN):
        made(s3, tmp_path / "page.html", run_id="2025-01-14-080000")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_said(s3: Any, plain_run: Path, tmp_path: Path) -> None:
    keep(s3, plain_run)
    (tmp_path / "file").touch()
    with pytest.raises(ChronosError, match="--into"):
        made(s3, tmp_path / "file" / "page.html")


def test_a_refusal_leaves_no_page(
    s3: Any, plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(s3, plain_run)

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    monkeypatch.setattr(s3, "get_object", refuse)
    with pytest.raises(StorageDenied):
        made(s3, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
