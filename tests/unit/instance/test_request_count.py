"""What Python asks of S3 on the instance is counted for the run's cost."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from chronos_ec2.instance.request_count import VARIABLE, count_requests, letter_of

URL = "https://bucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("method", "path", "letter"),
    [
        ("GET", "/key", "G"),
        ("HEAD", "/key", "G"),
        ("PUT", "/key", "P"),
        ("PUT", "/key?partNumber=2&uploadId=x", "P"),
        ("POST", "/key?uploads", "P"),
        ("GET", "/?list-type=2&prefix=list", "P"),
        ("GET", "/?prefix=x&list-type=2", "P"),
        ("DELETE", "/key", ""),
        ("POST", "/?delete", ""),
        ("GET", "/list-type?partNumber=1", "G"),
    ],
)
def test_requests_count_as_s3_prices_them(method: str, path: str, letter: str) -> None:
    assert letter_of(method, URL + path) == letter


@mock_aws
def test_every_request_of_a_client_is_one_letter(tmp_path: Path) -> None:
    file = tmp_path / "s3-requests"
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    client.create_bucket(Bucket="a-bucket")
    count_requests(client, {VARIABLE: str(file)})
    client.put_object(Bucket="a-bucket", Key="k", Body=b"x")
    client.get_object(Bucket="a-bucket", Key="k")
    client.list_objects_v2(Bucket="a-bucket")
    client.head_object(Bucket="a-bucket", Key="k")
    client.delete_object(Bucket="a-bucket", Key="k")
    assert file.read_text() == "PGPG"


@mock_aws
def test_a_file_that_cannot_be_written_and_no_file_are_no_trouble(tmp_path: Path) -> None:
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    count_requests(client, {})
    count_requests(client, {VARIABLE: str(tmp_path / "none" / "file")})
    client.create_bucket(Bucket="a-bucket")
    assert list(tmp_path.iterdir()) == []
