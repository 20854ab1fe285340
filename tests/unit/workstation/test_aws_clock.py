"""A laptop whose clock is off shows the ages that are true: AWS's answers say what time it is."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.aws_clock import AwsClock, date_of
from chronos_ec2.workstation.watch import watch

TRUTH = datetime(2025, 1, 15, 14, 40, 22, tzinfo=UTC)


class Raw(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def answering(headers: dict[str, str], status: int = 200, body: bytes = b"") -> Any:
    """An S3 client to which every call is answered so."""
    client = boto3.Session("test", "test", region_name="us-east-1").client("s3")

    def answer(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, status, headers, Raw(body))

    client.meta.events.register_first("before-send", answer)
    return client


@pytest.mark.parametrize("off", [timedelta(minutes=-4), timedelta(minutes=4), timedelta(hours=9)])
def test_the_clock_is_set_by_an_answer(off: timedelta) -> None:
    client = answering({"date": format_datetime(TRUTH, usegmt=True)})
    clock = AwsClock(client, lambda: TRUTH + off)
    assert clock() == TRUTH + off
    client.head_bucket(Bucket="b")
    assert clock() == TRUTH


def test_a_refusal_sets_it_as_well() -> None:
    client = answering({"date": format_datetime(TRUTH, usegmt=True)}, status=403)
    clock = AwsClock(client, lambda: TRUTH - timedelta(minutes=4))
    with pytest.raises(ClientError):
        client.head_bucket(Bucket="b")
    assert clock() == TRUTH


def test_what_the_header_cannot_tell_is_left() -> None:
    client = answering({"date": format_datetime(TRUTH, usegmt=True)})
    near = TRUTH + timedelta(seconds=1.9)
    clock = AwsClock(client, lambda: near)
    client.head_bucket(Bucket="b")
    assert clock() == near


@pytest.mark.parametrize("headers", [{}, {"date": "soon"}, {"date": ""}])
def test_an_answer_without_a_time_changes_nothing(headers: dict[str, str]) -> None:
    client = answering(headers)
    clock = AwsClock(client, lambda: TRUTH)
    client.head_bucket(Bucket="b")
    assert clock() == TRUTH
    assert date_of({}) is None


def test_watch_shows_the_true_age_of_a_heartbeat(world: Any) -> None:
    world.put_run()
    beat = {"start": to_text(TRUTH), "last_update": to_text(TRUTH - timedelta(seconds=20))}
    world.put_state("training", "step_1", timestamps=beat)
    state = world.get("dev/system-state.json")
    # The laptop's clock is four minutes ahead: by it the heartbeat is old.
    client = answering({"date": format_datetime(TRUTH, usegmt=True), "etag": '"e"'}, body=state)
    clock = AwsClock(client, lambda: TRUTH + timedelta(minutes=4))
    out = io.StringIO()
    watch(client, world.ec2, world.bucket, "dev", out=out, follow=False, as_json=True, now=clock)
    seen = json.loads(out.getvalue())
    assert (seen["word"], seen["heartbeat_age_seconds"]) == ("training", 20.0)
    assert world.ec2.calls == []
