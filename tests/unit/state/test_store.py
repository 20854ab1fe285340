"""The store's promises, one writer at a time: what it writes and refuses, what it does with S3's errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError, ReadTimeoutError

from chronos_ec2.errors import (
    IllegalTransition,
    StateConflict,
    StateHeld,
    StateMissing,
    StateUnreadable,
    StorageDenied,
)
from chronos_ec2.state.store import ATTEMPTS, MAX_DELAY_SECONDS, StateStore, state_key

from .conftest import Clock
from .fakes import KEY, RUN_ID, MemoryS3, client_error, lost_answer, state_body

OTHER_RUN = "2025-01-16-080000"
TRANSIENT = ["ConditionalRequestConflict", "409", "503", "SlowDown", "InternalError", "RequestTimeout", "500"]


def written(s3: MemoryS3) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(s3.objects[KEY])
    return body


# -- reading ------------------------------------------------------------------------------------------


def test_the_file_lies_where_the_document_says() -> None:
    assert state_key("dev") == "dev/system-state.json"


def test_no_file_reads_as_none(store: StateStore) -> None:
    assert store.read() is None
    assert store.read_raw() is None


def test_a_snapshot_says_who_and_where(store: StateStore) -> None:
    store.claim(state_body())
    seen = store.read()
    assert seen is not None
    assert (seen.run_id, seen.status) == (RUN_ID, "initialization")
    assert store.uri == f"s3://bucket/{KEY}"


CORRUPT = {
    "empty": b"",
    "half": b'{"run_id": "2025',
    "not text": b"\xff\xfe\x00\xd8",
    "not utf-8": b'{"run_id": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "too deep": b"[" * 100_000,
    "lacks everything": b"{}",
    "number too long": b'{"pid": ' + b"9" * 5000 + b"}",
    "revision NaN": json.dumps(state_body()).replace('"revision": 1', '"revision": NaN').encode(),
    "revision 1e999": json.dumps(state_body()).replace('"revision": 1', '"revision": 1e999').encode(),
    "config NaN": json.dumps(state_body(training_config={"x": float("nan")})).encode(),
    "unknown status": json.dumps(state_body(status="done")).encode(),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_unreadable_and_stays_as_it_is(name: str, s3: MemoryS3, store: StateStore) -> None:
    s3.objects[KEY] = CORRUPT[name]
    with pytest.raises(StateUnreadable):
        store.read()
    with pytest.raises(StateUnreadable):
        store.modify(RUN_ID, {"pid": 1})
    assert s3.objects == {KEY: CORRUPT[name]}


def test_a_corrupt_file_can_still_be_read_raw_and_overtaken(s3: MemoryS3, store: StateStore) -> None:
    s3.objects[KEY] = b"{"
    raw = store.read_raw()
    assert raw is not None
    assert raw[0] == b"{"


def test_a_file_that_is_not_json_is_named(s3: MemoryS3, store: StateStore) -> None:
    s3.objects[KEY] = b"{"
    with pytest.raises(StateUnreadable, match=rf"s3://bucket/{KEY} is not JSON"):
        store.read()


# -- claiming -----------------------------------------------------------------------------------------


def test_a_claim_creates_the_file(s3: MemoryS3, store: StateStore) -> None:
    snapshot = store.claim(state_body())
    assert written(s3) == snapshot.body
    assert snapshot == store.read()
    assert written(s3)["control"]["revision"] == 1


def test_a_claim_begins_at_revision_one_with_a_writer_of_its_own(s3: MemoryS3, store: StateStore) -> None:
    body = state_body()
    body["control"] |= {"revision": 41, "writer": "stale"}
    control = store.claim(body).body["control"]
    assert control["revision"] == 1
    assert re.fullmatch("[0-9a-f]{16}", control["writer"])
    assert (control["deadline"], control["attempt"]) == ("2025-01-15T20:30:22Z", 1)


def test_a_second_claim_is_refused_and_changes_nothing(s3: MemoryS3, store: StateStore) -> None:
    store.claim(state_body())
    before = dict(s3.objects)
    with pytest.raises(StateHeld, match=rf"another run holds dev.*{KEY}"):
        store.claim(state_body(OTHER_RUN))
    assert s3.objects == before


def test_a_claim_over_a_corrupt_file_is_refused(s3: MemoryS3, store: StateStore) -> None:
    s3.objects[KEY] = b"{"
    with pytest.raises((StateHeld, StateUnreadable)):
        store.claim(state_body())
    assert s3.objects == {KEY: b"{"}


def test_a_claim_that_is_no_state_writes_nothing(s3: MemoryS3, store: StateStore) -> None:
    with pytest.raises(StateUnreadable):
        store.claim(state_body(status="done"))
    assert s3.objects == {}
    assert s3.calls == []


def test_the_time_of_the_write_is_recorded(s3: MemoryS3, store: StateStore, clock: Clock) -> None:
    snapshot = store.claim(state_body())
    assert snapshot.body["timestamps"] == {
        "start": "2025-01-15T14:30:22Z",
        "last_update": "2025-01-15T15:00:00Z",
    }
    clock.sleep(61)
    assert store.modify(RUN_ID, {}).body["timestamps"]["last_update"] == "2025-01-15T15:01:01Z"


def test_environments_do_not_touch_each_other(s3: MemoryS3, open_store: Callable[..., StateStore]) -> None:
    open_store(s3).claim(state_body())
    open_store(s3, "prod").claim(state_body(OTHER_RUN, environment="prod"))
    assert s3.keys == [KEY, "prod/system-state.json"]


# -- updating -----------------------------------------------------------------------------------------


def test_every_write_adds_one_to_the_revision_and_has_its_own_writer(store: StateStore) -> None:
    seen = [store.claim(state_body())]
    for status in ("data_sync", "training", "training", "results_sync", "cleanup"):
        seen.append(store.transition(RUN_ID, status, status))
    assert [snapshot.body["control"]["revision"] for snapshot in seen] == [1, 2, 3, 4, 5, 6]
    assert len({snapshot.body["control"]["writer"] for snapshot in seen}) == 6
    assert len({snapshot.etag for snapshot in seen}) == 6


def test_an_update_keeps_what_it_does_not_change(store: StateStore) -> None:
    before = store.claim(state_body(note="kept"))
    after = store.update(before, {"current_step": "step_7", "pid": 42})
    assert after is not None
    different = {key for key in before.body if before.body[key] != after.body[key]}
    assert different == {"current_step", "pid", "control"}
    assert after.body["control"]["deadline"] == before.body["control"]["deadline"]


def test_a_stale_etag_changes_nothing_and_says_so(s3: MemoryS3, store: StateStore) -> None:
    stale = store.claim(state_body())
    fresh = store.update(stale, {"current_step": "newer"})
    before = dict(s3.objects)
    assert store.update(stale, {"current_step": "older"}) is None
    assert s3.objects == before
    assert store.read() == fresh


def test_an_update_of_a_file_that_is_gone_makes_no_file(s3: MemoryS3, store: StateStore) -> None:
    seen = store.claim(state_body())
    assert store.delete(seen)
    assert store.update(seen, {"pid": 1}) is None
    assert s3.objects == {}


@pytest.mark.parametrize("status", ["training", "cleanup", "killed", "results_sync", "done", None, 5])
def test_an_illegal_transition_writes_nothing(status: Any, s3: MemoryS3, store: StateStore) -> None:
    seen = store.claim(state_body())
    before, calls = dict(s3.objects), len(s3.calls)
    with pytest.raises(IllegalTransition):
        store.update(seen, {"status": status})
    assert s3.calls[calls:] == []
    with pytest.raises(IllegalTransition):
        store.modify(RUN_ID, {"status": status})
    assert s3.calls[calls:] == ["get_object"]
    assert s3.objects == before


def test_a_change_that_breaks_the_schema_writes_nothing(s3: MemoryS3, store: StateStore) -> None:
    seen = store.claim(state_body())
    before = dict(s3.objects)
    with pytest.raises(StateUnreadable, match="pid is bool"):
        store.update(seen, {"pid": True})
    assert s3.objects == before


def test_a_transition_carries_further_changes(store: StateStore) -> None:
    store.claim(state_body())
    after = store.transition(RUN_ID, "failed", "gpu_preflight", error_message="no GPU")
    assert (after.status, after.body["current_step"], after.body["error_message"]) == (
        "failed",
        "gpu_preflight",
        "no GPU",
    )


def test_a_run_does_not_touch_another_runs_state(s3: MemoryS3, store: StateStore) -> None:
    store.claim(state_body(OTHER_RUN))
    before = dict(s3.objects)
    with pytest.raises(StateMissing, match=f"does not belong to run {RUN_ID}"):
        store.transition(RUN_ID, "data_sync", "data_sync")
    assert s3.objects == before


def test_a_run_whose_state_is_gone_hears_so(s3: MemoryS3, store: StateStore) -> None:
    with pytest.raises(StateMissing):
        store.transition(RUN_ID, "data_sync", "data_sync")
    assert s3.objects == {}


# -- races --------------------------------------------------------------------------------------------


def test_a_lost_race_is_read_and_tried_again(s3: MemoryS3, store: StateStore, clock: Clock) -> None:
    store.claim(state_body())
    s3.plan("copy_object", lambda: store.modify(RUN_ID, {"instance_id": "i-1"}))
    after = store.modify(RUN_ID, {"current_step": "system_setup"})
    assert (after.body["instance_id"], after.body["current_step"]) == ("i-1", "system_setup")
    assert after.body["control"]["revision"] == 3
    assert len(clock.sleeps) == 1


def test_a_heartbeat_never_writes_over_a_kill(s3: MemoryS3, store: StateStore) -> None:
    store.claim(state_body(status="training"))
    s3.plan(
        "copy_object",
        lambda: store.transition(RUN_ID, "killed", "training", error_message="killed by operator"),
    )
    beat = store.modify(RUN_ID, {"current_step": "step_10"})
    assert beat.status == written(s3)["status"] == "killed"
    assert written(s3)["error_message"] == "killed by operator"


def test_a_run_that_was_killed_meanwhile_cannot_move_on(s3: MemoryS3, store: StateStore) -> None:
    store.claim(state_body(status="training"))
    s3.plan("copy_object", lambda: store.transition(RUN_ID, "killed", "training"))
    with pytest.raises(IllegalTransition, match="'killed' may not become 'results_sync'"):
        store.transition(RUN_ID, "results_sync", "results_sync")
    assert written(s3)["status"] == "killed"


def test_a_run_whose_environment_changed_hands_meanwhile_stops(s3: MemoryS3, store: StateStore) -> None:
    store.claim(state_body())

    def change_hands() -> None:
        seen = store.read()
        assert seen is not None
        assert store.delete(seen)
        store.claim(state_body(OTHER_RUN))

    s3.plan("copy_object", change_hands)
    with pytest.raises(StateMissing):
        store.modify(RUN_ID, {"pid": 7})
    assert written(s3)["run_id"] == OTHER_RUN
    assert written(s3)["pid"] is None


def test_who_loses_every_race_gives_up(s3: MemoryS3, store: StateStore, clock: Clock) -> None:
    store.claim(state_body())

    def overtake() -> None:
        seen = store.read()
        assert seen is not None
        assert store.update(seen, {"pid": len(s3.calls)})

    # the winner's own copy is a call as well: it has an empty plan between two of the loser's
    for _ in range(ATTEMPTS):
        s3.plan("copy_object", overtake, lambda: None)
    with pytest.raises(StateConflict, match=f"won {ATTEMPTS} times in a row"):
        store.modify(RUN_ID, {"current_step": "never"})
    assert written(s3)["current_step"] == "launch"
    assert written(s3)["control"]["revision"] == 1 + ATTEMPTS
    assert len(clock.sleeps) == ATTEMPTS


# -- answers that get lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [lost_answer(), *[client_error(code, "CopyObject") for code in ("500", "503")]]
)
def test_a_claim_whose_answer_was_lost_is_won(error: Exception, s3: MemoryS3, store: StateStore) -> None:
    s3.plan("copy_object", error, applied=True)
    snapshot = store.claim(state_body())
    assert s3.calls.count("copy_object") == 2
    assert snapshot == store.read()
    assert s3.keys == [KEY]


def test_an_update_whose_answer_was_lost_is_done_once(s3: MemoryS3, store: StateStore) -> None:
    seen = store.claim(state_body())
    s3.plan("copy_object", lost_answer(), applied=True)
    after = store.update(seen, {"current_step": "system_setup"})
    assert after is not None
    assert after == store.read()
    assert after.body["control"]["revision"] == 2
    assert store.update(after, {"pid": 1}) is not None, "its ETag is good for the next write"


def test_a_transition_whose_answer_was_lost_is_made_once(s3: MemoryS3, store: StateStore) -> None:
    store.claim(state_body())
    s3.plan("copy_object", lost_answer(), applied=True)
    after = store.transition(RUN_ID, "data_sync", "data_sync")
    assert (after.status, after.body["control"]["revision"]) == ("data_sync", 2)


def test_a_claim_whose_answers_were_all_lost_is_won(s3: MemoryS3, store: StateStore) -> None:
    s3.plan("copy_object", *[lost_answer() for _ in range(ATTEMPTS - 1)])
    s3.plan("copy_object", lost_answer(), applied=True)
    assert store.claim(state_body()) == store.read()
    assert s3.keys == [KEY]


def test_a_claim_that_lost_while_its_answers_were_lost_is_refused(
    s3: MemoryS3, open_store: Callable[..., StateStore]
) -> None:
    winner, loser = open_store(s3), open_store(s3)

    def overtake() -> None:
        winner.claim(state_body(OTHER_RUN))
        raise lost_answer()

    s3.plan("copy_object", overtake)
    with pytest.raises(StateHeld):
        loser.claim(state_body())
    assert written(s3)["run_id"] == OTHER_RUN
    assert s3.keys == [KEY]


def test_a_write_that_never_landed_raises_the_last_error(s3: MemoryS3, store: StateStore) -> None:
    s3.plan("copy_object", *[lost_answer() for _ in range(ATTEMPTS)])
    with pytest.raises(ReadTimeoutError):
        store.claim(state_body())
    assert s3.objects == {}


def test_a_delete_whose_answer_was_lost_is_done(s3: MemoryS3, store: StateStore) -> None:
    seen = store.claim(state_body())
    s3.plan("delete_object", lost_answer(), applied=True)
    assert store.delete(seen)
    assert s3.objects == {}


# -- S3's errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", TRANSIENT)
@pytest.mark.parametrize("operation", ["put_object", "copy_object"])
def test_a_passing_failure_of_a_write_is_tried_again(
    operation: str, code: str, s3: MemoryS3, store: StateStore, clock: Clock
) -> None:
    s3.plan(operation, *[client_error(code, operation) for _ in range(ATTEMPTS - 1)])
    assert store.claim(state_body()) == store.read()
    assert len(clock.sleeps) == ATTEMPTS - 1
    assert s3.keys == [KEY]


@pytest.mark.parametrize("operation", ["get_object", "delete_object"])
def test_a_passing_failure_of_a_read_or_a_delete_is_tried_again(
    operation: str, s3: MemoryS3, store: StateStore
) -> None:
    seen = store.claim(state_body())
    for call, wanted in ((store.read, seen), (lambda: store.delete(seen), True)):
        s3.plan(operation, client_error("503", operation), lost_answer(), client_error("409", operation))
        assert call() == wanted
        s3.forget_plans()


def test_waits_double_up_to_a_cap(s3: MemoryS3, open_store: Callable[..., StateStore], clock: Clock) -> None:
    s3.plan("put_object", *[client_error("503", "PutObject") for _ in range(ATTEMPTS - 1)])
    open_store(s3).claim(state_body())
    assert clock.sleeps == [pytest.approx(0.2 * 2**n) for n in range(ATTEMPTS - 1)]
    assert max(clock.sleeps) <= MAX_DELAY_SECONDS


def test_the_whole_wait_is_jitter(s3: MemoryS3, open_store: Callable[..., StateStore], clock: Clock) -> None:
    s3.plan("put_object", *[client_error("503", "PutObject") for _ in range(ATTEMPTS - 1)])
    open_store(s3, jitter=0.0).claim(state_body())
    assert clock.sleeps == [0.0] * (ATTEMPTS - 1)


def test_a_failure_that_does_not_pass_is_raised(s3: MemoryS3, store: StateStore, clock: Clock) -> None:
    s3.plan("put_object", *[client_error("503", "PutObject") for _ in range(ATTEMPTS)])
    with pytest.raises(ClientError, match="503"):
        store.claim(state_body())
    assert len(clock.sleeps) == ATTEMPTS - 1, "no sleep after the last try"
    assert s3.objects == {}


@pytest.mark.parametrize("code", ["AccessDenied", "403", "AllAccessDisabled", "InvalidAccessKeyId"])
@pytest.mark.parametrize("operation", ["get_object", "put_object", "copy_object", "delete_object"])
def test_a_refusal_is_told_at_once(
    operation: str, code: str, s3: MemoryS3, store: StateStore, clock: Clock
) -> None:
    seen = store.claim(state_body())
    before = dict(s3.objects)
    s3.plan(operation, *[client_error(code, operation) for _ in range(2)])
    call = {
        "get_object": store.read,
        "delete_object": lambda: store.delete(seen),
    }.get(operation, lambda: store.update(seen, {"pid": 1}))
    with pytest.raises(StorageDenied, match=rf"S3 refused .*{KEY}"):
        call()
    assert clock.sleeps == []
    assert s3.objects == before


@pytest.mark.parametrize(
    "error",
    [
        client_error("NoSuchBucket", "PutObject"),
        client_error("ExpiredToken", "PutObject"),
        NoCredentialsError(),
        ParamValidationError(report='Unknown parameter in input: "IfMatch"'),
    ],
)
def test_a_failure_that_no_second_try_can_mend_is_raised_at_once(
    error: Exception, s3: MemoryS3, store: StateStore, clock: Clock
) -> None:
    s3.plan("put_object", error)
    with pytest.raises(type(error)):
        store.claim(state_body())
    assert clock.sleeps == []


# -- what is left behind ------------------------------------------------------------------------------


def test_writes_leave_no_temporary_key(s3: MemoryS3, store: StateStore) -> None:
    stale = store.claim(state_body())
    store.modify(RUN_ID, {"pid": 1})
    assert store.update(stale, {"pid": 2}) is None
    with pytest.raises(StateHeld):
        store.claim(state_body(OTHER_RUN))
    assert s3.keys == [KEY]


@pytest.mark.parametrize(
    "error", [client_error("AccessDenied", "CopyObject"), client_error("NoSuchBucket", "CopyObject")]
)
def test_a_failed_copy_leaves_no_temporary_key(error: Exception, s3: MemoryS3, store: StateStore) -> None:
    s3.plan("copy_object", error)
    with pytest.raises(Exception, match=r"AccessDenied|NoSuchBucket"):
        store.claim(state_body())
    assert s3.keys == []


def test_a_staged_body_whose_answers_were_lost_is_dropped(s3: MemoryS3, store: StateStore) -> None:
    s3.plan("put_object", *[lost_answer() for _ in range(ATTEMPTS)], applied=True)
    with pytest.raises(ReadTimeoutError):
        store.claim(state_body())
    assert s3.keys == []


def test_an_interrupt_leaves_no_temporary_key(s3: MemoryS3, store: StateStore) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    s3.plan("copy_object", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.claim(state_body())
    assert s3.keys == []


@pytest.mark.parametrize("error", [client_error("AccessDenied", "DeleteObject"), lost_answer()])
def test_a_temporary_key_that_cannot_be_dropped_does_not_fail_the_write(
    error: Exception, s3: MemoryS3, store: StateStore
) -> None:
    s3.plan("drop_temporary", error)
    assert store.claim(state_body()) == store.read()


# -- deleting -----------------------------------------------------------------------------------------


def test_a_delete_frees_the_environment(s3: MemoryS3, store: StateStore) -> None:
    assert store.delete(store.claim(state_body()))
    assert s3.objects == {}
    assert store.claim(state_body(OTHER_RUN)).run_id == OTHER_RUN


def test_a_delete_of_what_has_changed_deletes_nothing(s3: MemoryS3, store: StateStore) -> None:
    stale = store.claim(state_body())
    store.modify(RUN_ID, {"pid": 1})
    assert not store.delete(stale)
    assert written(s3)["pid"] == 1


def test_a_delete_never_takes_the_next_runs_claim(s3: MemoryS3, store: StateStore) -> None:
    old = store.claim(state_body())
    store.delete(old)
    store.claim(state_body(OTHER_RUN))
    assert not store.delete(old)
    assert written(s3)["run_id"] == OTHER_RUN


def test_a_delete_of_what_is_gone_is_done(store: StateStore) -> None:
    seen = store.claim(state_body())
    assert store.delete(seen)
    assert store.delete(seen)
