"""The store on a real boto3 client: conditions as headers, many writers at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from instance.fakes import FakeS3, Fault, serve_s3

from chronos_ec2.errors import StateHeld, StorageDenied
from chronos_ec2.state.store import StateStore

from .fakes import BUCKET, KEY, RUN_ID, state_body

CLAIMANTS = 12
PATH = f"{BUCKET}/{KEY}"


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serve_s3() as fake:
        yield fake


@pytest.fixture
def client(server: FakeS3) -> Iterator[Any]:
    config = Config(
        retries={"total_max_attempts": 1}, max_pool_connections=CLAIMANTS, s3={"addressing_style": "path"}
    )
    made = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=config,
    )
    yield made
    made.close()


def test_of_many_claims_at_once_exactly_one_wins(
    server: FakeS3, client: Any, open_store: Callable[..., StateStore]
) -> None:
    everyone_is_ready = threading.Barrier(CLAIMANTS)

    def claim(number: int) -> str:
        body = state_body(f"2025-01-15-{number:06d}")
        everyone_is_ready.wait(timeout=10)
        try:
            return open_store(client).claim(body).run_id
        except StateHeld:
            return "held"

    with ThreadPoolExecutor(CLAIMANTS) as pool:
        answers = list(pool.map(claim, range(CLAIMANTS)))
    winners = [answer for answer in answers if answer != "held"]
    assert len(winners) == 1
    assert json.loads(server.objects[PATH])["run_id"] == winners[0]
    assert list(server.objects) == [PATH]


def test_of_many_updates_at_once_none_is_lost(
    server: FakeS3, client: Any, open_store: Callable[..., StateStore]
) -> None:
    store = open_store(client)
    store.claim(state_body())
    writers, beats = 3, 3

    def beat(number: int) -> None:
        mine = open_store(client)
        written = 0
        while written < beats:
            seen = mine.read()
            assert seen is not None
            if mine.update(seen, {"current_step": f"{number}"}) is not None:
                written += 1

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(beat, range(writers)))
    assert json.loads(server.objects[PATH])["control"]["revision"] == 1 + writers * beats


@pytest.mark.parametrize(("status", "code"), [(409, "ConditionalRequestConflict"), (503, "SlowDown")])
def test_s3s_own_errors_are_tried_again(
    status: int, code: str, server: FakeS3, client: Any, open_store: Callable[..., StateStore]
) -> None:
    server.faults.append(Fault("PUT", KEY, status, code, times=3))
    assert open_store(client).claim(state_body()).run_id == RUN_ID


def test_a_refusal_names_the_call_and_the_file(
    server: FakeS3, client: Any, open_store: Callable[..., StateStore]
) -> None:
    server.faults.append(Fault("PUT", KEY, 403, "AccessDenied"))
    with pytest.raises(StorageDenied, match=rf"PutObject on s3://{PATH}"):
        open_store(client).claim(state_body())


def test_the_conditions_reach_the_server(
    server: FakeS3, client: Any, open_store: Callable[..., StateStore]
) -> None:
    store = open_store(client)
    first = store.claim(state_body())
    with pytest.raises(StateHeld):
        store.claim(state_body("2025-01-16-080000"))
    second = store.update(first, {"pid": 1})
    assert second is not None
    assert store.update(first, {"pid": 2}) is None
    assert not store.delete(first)
    assert store.delete(second)
    assert server.objects == {}
