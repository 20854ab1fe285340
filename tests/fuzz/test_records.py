"""run.json, state files and manifests lie in a bucket that people write to: they are read, or refused."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import nonsense
import pytest
from hypothesis import example, given
from nonsense import DEEP, FUZZ, JSON, dumped, flawed, flawed_bytes

from chronos_ec2.errors import ChronosError, DataInvalid, StateUnreadable
from chronos_ec2.instance import data_sync
from chronos_ec2.state import stored_checkpoints
from chronos_ec2.state.store import StateStore
from chronos_ec2.workstation.cost import add_up, grand_total
from chronos_ec2.workstation.run_cost import with_cost
from chronos_ec2.workstation.run_record import parse_record
from chronos_ec2.workstation.runs_table import print_runs
from faults.tools.tally import Tally

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
RUN = "2026-11-24-001628"
RECORD: dict[str, Any] = {
    "schema_version": 1,
    "run_id": RUN,
    "environment": "dev",
    "started_at": "2026-11-24T00:16:28Z",
    "launched_at": "2026-11-24T00:16:39Z",
    "ended_at": "2026-11-24T00:17:36Z",
    "deadline": "2026-11-24T06:16:28Z",
    "outcome": "succeeded",
    "failed_step": None,
    "error": None,
    "exit_code": 0,
    "instance": {"id": "i-0abc", "type": "g4dn.2xlarge", "market": "spot"},
    "price": {
        "compute_usd_per_hour": 0.752,
        "disk_gb": 100,
        "disk_usd_per_gb_month": 0.08,
        "address_usd_per_hour": 0.005,
        "put_usd_per_1000": 0.005,
        "get_usd_per_1000": 0.0004,
        "request_rates": {"put_once": 40, "put_per_hour": 600, "get_once": 60, "get_per_hour": 500},
    },
    "requests": {"put": 80, "get": 120},
    "cost_usd": {"compute": 1, "disk": 0.1, "requests": 0, "address": 0.1, "total": 1.2, "seconds": 60},
    "metrics": {"WQL": 0.1, "baselines": {"seasonal_naive": {"WQL": 0.2}}},
    "phases": [{"name": "training", "started_at": "2026-11-24T00:16:50Z", "seconds": 20.5, "outcome": "ok"}],
    "resume_from": None,
    "interrupted_at_step": 10,
}
STATE: dict[str, Any] = {
    "run_id": RUN,
    "environment": "dev",
    "status": "training",
    "current_step": "step_3",
    "instance_id": "i-0123456789abcdef0",
    "instance_type": "g4dn.2xlarge",
    "s3_prefix": f"s3://b/dev/{RUN}/",
    "timestamps": {"start": "2026-11-24T00:16:28Z", "last_update": "2026-11-24T00:17:28Z"},
    "training_config": {"max_steps": 300},
    "error_message": None,
    "pid": 7,
    "control": {
        "revision": 3,
        "writer": "0123456789abcdef",
        "deadline": "2026-11-24T06:16:28Z",
        "attempt": 1,
    },
}
DATA_FILE = {"name": "a.parquet", "bytes": 7, "sha256": "a" * 64}
DATASET = {"files": [DATA_FILE], "rows": 7, "series": 1}
CHECKPOINT = {"format_version": 1, "step": 200, "files": {"state.npz": {"bytes": 7, "sha256": "a" * 64}}}


@FUZZ
@given(flawed(RECORD) | flawed({**RECORD, "ended_at": None, "outcome": None, "cost_usd": None}) | JSON)
@example({**RECORD, "ended_at": None, "outcome": None, "price": None, "cost_usd": []})
def test_any_record_is_shown_and_added_up(tally: Tally, record: Any) -> None:
    as_read = json.loads(dumped(record))
    if not isinstance(as_read, dict):
        return  # get_json refuses it
    with_cost(as_read)
    for state in (None, STATE):
        run = parse_record("dev", RUN, as_read, state, NOW)
        grand_total(add_up([run, run]))
        print_runs([run], io.StringIO())
        print_runs([run], io.StringIO(), as_json=True)
    tally.count("run.json", "shown")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("price", "compute_usd_per_hour"), float("inf")),
        (("price", "disk_gb"), 10**400),
        (("metrics", "WQL"), 10**400),
        (("cost_usd", "compute"), None),
        (("cost_usd", "total"), float("nan")),
        (("cost_usd", "seconds"), "60"),
    ],
    ids=str,
)
def test_a_number_that_nobody_can_reckon_with_is_not_known(path: tuple[str, ...], value: Any) -> None:
    record = json.loads(dumped(nonsense.replaced(RECORD, path, value)))
    run = parse_record(
        "dev", RUN, {**record, **with_cost(record)} if path[0] == "price" else record, None, NOW
    )
    total = grand_total(add_up([run]))
    assert total.unknown == (() if path[0] == "metrics" else (RUN,)) and run.wql in (None, 0.1)
    print_runs([run], io.StringIO(), as_json=True)


class Bucket:
    """One object, in the words of a boto3 client."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def get_object(self, **_: Any) -> dict[str, Any]:
        return {"Body": io.BytesIO(self._body), "ETag": '"e"'}


def read_state(body: bytes) -> str:
    try:
        snapshot = StateStore(Bucket(body), "b", "dev").read()
    except StateUnreadable as error:
        assert len(str(error)) < 4000
        return "refused"
    assert snapshot is not None and snapshot.body["run_id"]
    parse_record("dev", RUN, RECORD, snapshot.body, NOW)
    return "read"


@FUZZ
@given(flawed(STATE).map(dumped) | flawed_bytes(dumped(STATE)) | JSON.map(dumped))
def test_any_state_file_is_read_or_refused(tally: Tally, body: bytes) -> None:
    tally.count("state file", read_state(body))


@pytest.mark.parametrize("body", DEEP, ids=["deep list", "deep object", "byte order mark", "long number"])
def test_json_that_no_reader_can_hold_is_refused(body: bytes) -> None:
    assert read_state(body) == "refused"
    with pytest.raises(DataInvalid):
        data_sync.parse_manifest(body)
    with pytest.raises(ValueError):
        stored_checkpoints.parse_manifest(body, 200)


@FUZZ
@given(flawed(DATASET).map(dumped) | flawed_bytes(dumped(DATASET)) | JSON.map(dumped))
def test_any_manifest_of_data_names_plain_files_or_is_refused(tally: Tally, body: bytes) -> None:
    try:
        files = data_sync.parse_manifest(body)
    except ChronosError:
        tally.count("manifest of data", "refused")
        return
    assert all("/" not in file.name and not file.name.startswith(".") for file in files)
    tally.count("manifest of data", "read")


@FUZZ
@given(flawed(CHECKPOINT).map(dumped) | flawed_bytes(dumped(CHECKPOINT)) | JSON.map(dumped))
def test_any_manifest_of_a_checkpoint_stays_in_its_folder_or_is_refused(tally: Tally, body: bytes) -> None:
    try:
        manifest = stored_checkpoints.parse_manifest(body, 200)
    except ValueError:
        tally.count("manifest of a checkpoint", "refused")
        return
    assert not any(name.startswith("/") or ".." in name.split("/") for name in manifest.files)
    tally.count("manifest of a checkpoint", "read")


def test_the_generator_reaches_every_part() -> None:
    assert ("price", "request_rates", "put_once") in nonsense.paths_of(RECORD)
