"""Variables, clients and exports, against a small CloudFormation and against nothing at all."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chronos_ec2.errors import ChronosError, LocalCloudDown, NoCredentials, NotDeployed
from chronos_ec2.workstation.aws import Aws, aws_variables, embedded_endpoint, local_home
from chronos_ec2.workstation.settings import REPOSITORY, Settings

Answer = Callable[[list[tuple[int, str]]], str]


@pytest.fixture
def cloudformation() -> Iterator[Answer]:
    """Serve planned answers, one a request, the last one for ever; returns the endpoint."""
    planned: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = planned.pop(0) if len(planned) > 1 else planned[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()

    def plan(answers: list[tuple[int, str]]) -> str:
        planned[:] = answers
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield plan
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def embedded(local: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Aws]:
    """The local environment, its endpoint file naming a URL."""

    def at(url: str) -> Aws:
        (tmp_path / "endpoint.json").write_text(json.dumps({"endpoint_url": url}))
        monkeypatch.setenv("CHRONOS_LOCAL_HOME", str(tmp_path))
        return Aws(local)

    return at


def exports_page(exports: dict[str, str], token: str = "") -> tuple[int, str]:
    members = "".join(
        f"<member><Name>{name}</Name><Value>{value}</Value></member>" for name, value in exports.items()
    )
    more = f"<NextToken>{token}</NextToken>" if token else ""
    result = f"<ListExportsResult><Exports>{members}</Exports>{more}</ListExportsResult>"
    return 200, f"<ListExportsResponse>{result}</ListExportsResponse>"


def refusal(status: int, code: str) -> tuple[int, str]:
    return status, f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"


# -- variables ----------------------------------------------------------------------------------------


def test_the_embedded_aws_lives_in_the_repository_unless_told_otherwise() -> None:
    assert local_home({}) == local_home({"CHRONOS_LOCAL_HOME": ""}) == REPOSITORY / ".chronos" / "local"
    assert local_home({"CHRONOS_LOCAL_HOME": "/x y"}) == Path("/x y")


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", "null", '"x"', b"\xff"])
def test_an_endpoint_file_that_says_nothing_means_that_it_is_down(
    content: str | bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "endpoint.json").write_bytes(raw)
    with pytest.raises(LocalCloudDown, match=r"invoke local\.start"):
        embedded_endpoint(tmp_path)


def test_real_aws_gets_region_and_profile_only(dev: Settings) -> None:
    found = aws_variables(dataclasses.replace(dev, region="eu-west-1", aws_profile="team"), {})
    assert (found["AWS_REGION"], found["AWS_DEFAULT_REGION"]) == ("eu-west-1", "eu-west-1")
    assert found["AWS_PROFILE"] == "team"
    assert not {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(found)
    assert "AWS_PROFILE" not in aws_variables(dev, {})


def test_the_users_retry_mode_stays(dev: Settings) -> None:
    assert aws_variables(dev, {})["AWS_RETRY_MODE"] == "standard"
    assert aws_variables(dev, {"AWS_RETRY_MODE": "adaptive"})["AWS_RETRY_MODE"] == "adaptive"


# -- the bucket ---------------------------------------------------------------------------------------


def test_the_bucket_is_the_stacks_export(cloudformation: Answer, embedded: Callable[[str], Aws]) -> None:
    pages = [
        exports_page({"Other-BucketName": "not-this"}, token="more"),
        exports_page({"ChronosTraining-VpcId": "vpc-1", "ChronosTraining-BucketName": "the-bucket"}),
    ]
    aws = embedded(cloudformation(pages))
    assert aws.bucket == "the-bucket"
    assert aws.bucket == "the-bucket", "asked for once"
    assert aws.topic_arn == ""


def test_the_topic_is_the_stacks_export(cloudformation: Answer, embedded: Callable[[str], Aws]) -> None:
    exports = {"Other-TopicArn": "not-this", "ChronosTraining-TopicArn": "arn:aws:sns:r:1:ChronosTraining"}
    aws = embedded(cloudformation([exports_page(exports)]))
    assert aws.topic_arn == "arn:aws:sns:r:1:ChronosTraining"
    assert aws.exports == {"TopicArn": aws.topic_arn}


def test_a_stack_that_is_not_there_names_the_command(
    cloudformation: Answer, embedded: Callable[[str], Aws]
) -> None:
    aws = embedded(cloudformation([exports_page({})]))
    with pytest.raises(NotDeployed, match=r"ChronosTraining-BucketName.*invoke deploy --env local"):
        _ = aws.bucket


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch"])
def test_refused_credentials_are_told(
    code: str, cloudformation: Answer, embedded: Callable[[str], Aws]
) -> None:
    aws = embedded(cloudformation([refusal(403, code)]))
    with pytest.raises(NoCredentials, match=code):
        _ = aws.bucket


def test_an_answer_that_is_no_answer_is_an_error_of_the_project(
    cloudformation: Answer, embedded: Callable[[str], Aws]
) -> None:
    aws = embedded(cloudformation([refusal(400, "ValidationError")]))
    with pytest.raises(ChronosError):
        _ = aws.bucket


def test_an_embedded_aws_that_died_is_down(embedded: Callable[[str], Aws]) -> None:
    with pytest.raises(LocalCloudDown, match=r"invoke local\.start"):
        _ = embedded("http://127.0.0.1:9").bucket


def test_no_credentials_at_all_are_told(dev: Settings) -> None:
    with pytest.raises(NoCredentials, match=r"AWS_PROFILE|aws configure"):
        _ = Aws(dev).bucket


def test_half_of_the_credentials_are_told(dev: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    with pytest.raises(NoCredentials):
        _ = Aws(dev).bucket


def test_a_network_that_is_down_is_told(dev: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ChronosError, match=r"127\.0\.0\.1:9"):
        _ = Aws(dev).bucket


def test_a_profile_that_is_not_there_is_told(dev: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoCredentials, match=r"\(team\) could not be found"):
        _ = Aws(dataclasses.replace(dev, aws_profile="team")).s3
    monkeypatch.setenv("AWS_PROFILE", "from the shell")
    with pytest.raises(NoCredentials, match="from the shell"):
        _ = Aws(dev).s3


# -- clients ------------------------------------------------------------------------------------------


def test_the_embedded_aws_asks_for_no_profile_and_no_credentials_of_the_user(
    cloudformation: Answer, embedded: Callable[[str], Aws], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "a-profile-that-is-not-there")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "stale")
    aws = embedded(cloudformation([exports_page({"ChronosTraining-BucketName": "b"})]))
    assert aws.bucket == "b"
    credentials = aws.s3._request_signer._credentials
    assert (credentials.access_key, credentials.token) == ("test", None)


def test_clients_have_time_outs_a_region_and_the_endpoint(embedded: Callable[[str], Aws]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        aws = embedded(url)
        metas = [client.meta for client in (aws.s3, aws.ec2)]
    for meta in metas:
        assert meta.endpoint_url == url
        assert meta.config.proxies == {}
        assert meta.region_name == "us-east-1"
        assert meta.config.connect_timeout <= 10
        assert meta.config.read_timeout <= 60
    assert aws.s3 is aws.s3
