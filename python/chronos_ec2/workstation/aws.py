"""AWS as the laptop sees it: which variables its programs need, its clients, the stack's exports."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from chronos_ec2.errors import LocalCloudDown, NoCredentials, NotDeployed
from chronos_ec2.workstation.settings import REPOSITORY, Settings

if TYPE_CHECKING:
    import botocore.session

    from chronos_ec2.workstation.aws_clock import AwsClock

EXPORT_PREFIX: Final = "ChronosTraining-"


def local_home(variables: Mapping[str, str] = os.environ) -> Path:
    """The folder in which the embedded AWS keeps its files."""
    return Path(variables.get("CHRONOS_LOCAL_HOME") or REPOSITORY / ".chronos" / "local")


def embedded_endpoint(home: Path) -> str:
    """The endpoint that the embedded AWS wrote when it started.

    Raises:
        LocalCloudDown: it has not been started.
    """
    try:
        url = str(json.loads((home / "endpoint.json").read_text())["endpoint_url"])
        address = urlsplit(url)
        # The file outlives a server that was killed.
        socket.create_connection((address.hostname, address.port), timeout=2).close()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LocalCloudDown("the embedded AWS is not running: start it with invoke local.start") from error
    return url


def embedded_aws_is_up() -> bool:
    """Whether the embedded AWS runs."""
    try:
        embedded_endpoint(local_home())
    except LocalCloudDown:
        return False
    return True


def without_proxy(variables: Mapping[str, str]) -> str:
    """The value of NO_PROXY that keeps what it held and adds this machine."""
    held = variables.get("NO_PROXY") or variables.get("no_proxy") or ""
    return ",".join([*filter(None, held.split(",")), "127.0.0.1", "localhost"])


def aws_variables(settings: Settings, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The standard AWS variables that make any AWS program work on this environment.

    Raises:
        LocalCloudDown: the environment is the embedded AWS, and that is not running.
    """
    found = {
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_PAGER": "",
        "AWS_CLI_ERROR_FORMAT": "legacy",
        "AWS_RETRY_MODE": variables.get("AWS_RETRY_MODE", "standard"),
        "CHRONOS_PYTHON": sys.executable,
    }
    if settings.aws_profile:
        found["AWS_PROFILE"] = settings.aws_profile
    if settings.embedded:
        found["AWS_ENDPOINT_URL"] = embedded_endpoint(local_home(variables))
        found["AWS_ACCESS_KEY_ID"] = found["AWS_SECRET_ACCESS_KEY"] = "test"
        found["NO_PROXY"] = found["no_proxy"] = without_proxy(variables)
    return found


def _add_download(**event: Any) -> None:
    """Give an S3 client boto3's download in parts, which is loaded when it is used."""

    def download_fileobj(client: Any, *arguments: Any, **named: Any) -> None:
        from boto3.s3 import inject

        inject.download_fileobj(client, *arguments, **named)

    event["class_attributes"]["download_fileobj"] = download_fileobj


class _Later:
    """A client that is made when something of it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    @cached_property
    def _client(self) -> Any:
        return self._make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@dataclass
class Aws:
    """One environment's AWS: clients made when they are first asked for."""

    settings: Settings

    @cached_property
    def session(self) -> botocore.session.Session:
        """A session on the environment's region and profile. Botocore's: boto3 adds a tenth of a second.

        Raises:
            NoCredentials: there is no such profile.
        """
        import botocore.session  # takes a third of a second; `--list` and `--help` do without
        from botocore.exceptions import ProfileNotFound

        profile = self.settings.aws_profile or None
        # On the embedded AWS no profile of the user's, not even one that AWS_PROFILE names.
        own = {"profile": (None, None, None, None)} if self.settings.embedded else None
        session = botocore.session.Session(session_vars=own, profile=None if own else profile)
        session.set_config_variable("region", self.settings.region)
        session.register("creating-client-class.s3", _add_download)
        try:
            session.get_scoped_config()
        except ProfileNotFound as error:
            raise NoCredentials(f"{error}: set aws_profile, or run aws configure --profile") from error
        return session

    def client(self, service: str, *, region: str | None = None, hasty: bool = False) -> Any:
        """A client with bounded time-outs and the standard retries.

        Args:
            region: where to ask, for a service that is not in every region; None: the environment's region.
            hasty: give up soon, for questions that a command can do without.
        """
        from botocore.config import Config

        endpoint: dict[str, Any] = {}
        if self.settings.embedded:
            variables = aws_variables(self.settings)
            endpoint = {
                "endpoint_url": variables["AWS_ENDPOINT_URL"],
                "aws_access_key_id": variables["AWS_ACCESS_KEY_ID"],
                "aws_secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
            }
        config = Config(
            connect_timeout=3 if hasty else 5,
            read_timeout=8 if hasty else 30,
            retries={"mode": "standard", "total_max_attempts": 2 if hasty else 5},
            max_pool_connections=40,
            proxies={} if self.settings.embedded else None,
        )
        return self.session.create_client(service, region_name=region, config=config, **endpoint)

    @cached_property
    def s3(self) -> Any:
        """The S3 client."""
        return self.client("s3")

    @cached_property
    def clock(self) -> AwsClock:
        """The present as S3 tells it; the laptop's clock before it was asked."""
        from chronos_ec2.workstation.aws_clock import AwsClock

        return AwsClock(self.s3)

    @cached_property
    def ec2(self) -> Any:
        """The EC2 client, made when it is first used: a run that is well is looked at without EC2."""
        return _Later(lambda: self.client("ec2"))

    @cached_property
    def bucket(self) -> str:
        """The stack's bucket, from its CloudFormation export.

        Raises:
            NotDeployed: the stack is not there.
            NoCredentials: AWS has no credentials, or refused them.
            ChronosError: AWS does not answer; `LocalCloudDown` where that is the embedded one.
        """
        if "BucketName" in self.exports:
            return self.exports["BucketName"]
        raise NotDeployed(
            f"CloudFormation export {EXPORT_PREFIX}BucketName is missing in {self.settings.region}: "
            f"run invoke deploy --env {self.settings.environment}"
        )

    @property
    def topic_arn(self) -> str:
        """The stack's topic for notices; empty where the stack has none. Raises as `bucket` does."""
        return self.exports.get("TopicArn", "")

    @cached_property
    def exports(self) -> dict[str, str]:
        """The stack's CloudFormation exports, names without the prefix. Raises as `bucket` does."""
        from chronos_ec2.workstation.s3 import translated

        with translated(f"the exports of the stack in {self.settings.region}"):
            pages = self.client("cloudformation").get_paginator("list_exports").paginate()
            found = {item["Name"]: item["Value"] for page in pages for item in page["Exports"]}
        return {
            name.removeprefix(EXPORT_PREFIX): value
            for name, value in found.items()
            if name.startswith(EXPORT_PREFIX)
        }
