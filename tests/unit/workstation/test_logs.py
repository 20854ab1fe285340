"""Logs: every byte once, nothing after the end is missed, and the console where S3 has none."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chronos_ec2.errors import NoSuchRun, StorageDenied, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation import log_parts
from chronos_ec2.workstation.logs import show_logs
from chronos_ec2.workstation.settings import REPOSITORY

RUN = "2025-01-15-143022"
OLDER = "2025-01-14-080000"
KEY = f"dev/{RUN}/logs/bootstrap.log"


class Shown:
    """One call of `show_logs`, its output and its talk."""

    def __init__(self, world: Any, **more: Any) -> None:
        out, err = io.StringIO(), io.StringIO()
        options = {"now": world.clock.now, "sleep": world.clock.sleep, "out": out, "err": err, **more}
        self.code = show_logs(world.s3, world.ec2, world.bucket, "dev", **options)
        self.out, self.err = out.getvalue(), err.getvalue()


def grow(world: Any, text: str | bytes) -> None:
    more = text.encode() if isinstance(text, str) else text
    before = world.get(KEY) if world.keys(KEY) else b""
    world.put(KEY, before + more)


def end(world: Any) -> None:
    world.end_run("succeeded")
    world.drop_state()


def test_a_refused_log_is_an_error_and_not_a_missing_log(world: Any) -> None:
    world.end_run("failed")
    world.s3.fail("head_object", "403")
    with pytest.raises(StorageDenied):
        Shown(world, run_id=RUN)


def test_a_run_that_is_not_there_is_named(world: Any) -> None:
    with pytest.raises(NoSuchRun):
        Shown(world)
    world.end_run("failed")
    with pytest.raises(NoSuchRun, match=RUN):
        Shown(world, run_id=OLDER)


def test_a_pattern_that_is_none_is_refused_before_any_call(world: Any) -> None:
    with pytest.raises(UsageProblem, match=r"--grep '\('"):
        Shown(world, grep="(")
    assert world.s3.calls == []


def test_the_latest_log_goes_to_stdout_alone(world: Any) -> None:
    world.end_run("succeeded")
    world.end_run("succeeded", OLDER)
    world.put(KEY, "a\nb without newline")
    shown = Shown(world)
    assert (shown.code, shown.out, shown.err) == (ExitCode.OK, "a\nb without newline\n", "")


def test_a_long_log_is_read_in_pieces_without_breaking_characters(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_parts, "CHUNK_BYTES", 7)
    world.end_run("succeeded")
    text = "höhe über alles: 25 °C ✓\n" * 5
    world.put(KEY, text)
    assert Shown(world).out == text


def test_bytes_that_are_no_text_do_not_stop_it(world: Any) -> None:
    world.end_run("succeeded")
    world.put(KEY, b"a\xff\xfeb\n")
    assert Shown(world).out == "a\ufffd\ufffdb\n"


def test_an_empty_log_is_a_log(world: Any) -> None:
    world.end_run("succeeded")
    world.put(KEY, b"")
    shown = Shown(world)
    assert (shown.code, shown.out, shown.err) == (ExitCode.OK, "", "")


def test_only_lines_that_match_are_printed_also_when_they_come_in_pieces(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_parts, "CHUNK_BYTES", 5)
    world.end_run("succeeded")
    world.put(KEY, "step 10 loss 3\nother\nstep 20 loss 2\nlast step")
    assert Shown(world, grep=r"step\b").out == "step 10 loss 3\nstep 20 loss 2\nlast step\n"


def test_following_prints_each_byte_once_and_ends_with_the_run(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    grow(world, "one\ntw")
    world.clock.during(2, lambda: grow(world, "o\n"))
    world.clock.during(3, lambda: world.put_state("training", "step_2"))
    world.clock.during(5, lambda: (grow(world, "the end\n"), end(world)))
    shown = Shown(world, follow=True)
    assert (shown.code, shown.out) == (ExitCode.OK, "one\ntwo\nthe end\n")
    assert world.clock.sleeps == 5


def test_what_is_uploaded_between_the_look_at_the_run_and_the_look_at_the_log_is_printed(world: Any) -> None:
    world.put_run()
    world.put_state("cleanup", "cleanup")
    grow(world, "one\n")

    class Ends:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.real_s3, name)

        def get_object(self, **wanted: Any) -> Any:
            answer = world.real_s3.get_object(**wanted)
            if wanted["Key"] == KEY and world.keys("dev/system-state.json"):
                grow(world, "last words\n")
                end(world)
            return answer

    out = io.StringIO()
    clock = {"now": world.clock.now, "sleep": world.clock.sleep}
    show_logs(Ends(), world.ec2, world.bucket, "dev", out=out, err=io.StringIO(), follow=True, **clock)  # type: ignore[arg-type]
    assert out.getvalue() == "one\nlast words\n"


def test_a_log_that_shrinks_starts_over(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    world.put(KEY, "a long first log\n")
    world.clock.during(2, lambda: world.put(KEY, "new\n"))
    world.clock.during(4, lambda: end(world))
    shown = Shown(world, follow=True)
    assert shown.out == "a long first log\nnew\n"
    assert shown.err.count("shorter") == 1


def test_following_waits_for_the_first_upload_and_says_so_once(world: Any) -> None:
    world.put_run()
    world.put_state("initialization", "launch", instance_id=None)
    world.clock.during(5, lambda: grow(world, "hello\n"))
    world.clock.during(7, lambda: end(world))
    shown = Shown(world, follow=True)
    assert shown.out == "hello\n"
    assert shown.err.count("waiting for its first upload") == 1


def test_following_survives_an_outage(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    grow(world, "one\n")
    broken = EndpointConnectionError(endpoint_url="https://s3")
    world.clock.during(2, lambda: world.s3.fail("get_object", broken, times=12))
    world.clock.during(20, lambda: (grow(world, "two\n"), end(world)))
    shown = Shown(world, follow=True)
    assert shown.out == "one\ntwo\n"
    assert shown.err.count("does not answer") == 1


def test_following_ends_when_the_machine_is_gone(world: Any) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    grow(world, "one\n")
    shown = Shown(world, follow=True)
    assert shown.out == "one\n"
    assert world.run_document()["outcome"] == "lost"


def test_following_gives_up_when_nothing_can_be_learned(world: Any) -> None:
    world.put_run()
    grow(world, "one\n")
    world.ec2.fail("get_paginator", "UnauthorizedOperation", times=10_000)
    shown = Shown(world, follow=True, poll_seconds=20)
    assert shown.out == "one\n"
    assert "giving up" in shown.err


def test_ctrl_c_says_that_the_run_goes_on(world: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    world.put_state("training", "step_1")
    grow(world, "one\n")
    world.clock.during(1, interrupt)
    shown = Shown(world, follow=True)
    assert (shown.code, shown.out) == (ExitCode.INTERRUPTED, "one\n")
    assert "the run goes on" in shown.err


def test_the_console_stands_in_for_a_log_that_was_never_uploaded(world: Any) -> None:
    instance = world.start_instance()
    world.end_run("failed", instance={"id": instance, "type": "t3.medium"})
    shown = Shown(world)
    assert shown.code == ExitCode.OK
    assert "Linux version" in shown.out
    assert f"console of {instance}" in shown.err


def test_the_console_is_filtered_too(world: Any) -> None:
    instance = world.start_instance()
    world.end_run("failed", instance={"id": instance, "type": "t3.medium"})
    assert Shown(world, grep="no such line").out == ""


@pytest.mark.parametrize("error", ["UnauthorizedOperation", "InvalidInstanceID.NotFound"])
def test_neither_log_nor_console_is_said(world: Any, error: str) -> None:
    world.end_run("failed", instance={"id": "i-0123456789abcdef0", "type": "t3.medium"})
    world.ec2.fail("get_console_output", error)
    shown = Shown(world)
    assert (shown.code, shown.out) == (ExitCode.FAILED, "")
    assert "no log in S3" in shown.err


def test_a_run_that_never_had_an_instance_is_said(world: Any) -> None:
    world.end_run("launch_failed")
    shown = Shown(world)
    assert shown.code == ExitCode.FAILED
    assert "no instance is known (launch_failed)" in shown.err


# -- the machines of a run of several ---------------------------------------------------------------------


def test_each_machine_has_a_log_of_its_own(world: Any) -> None:
    world.end_run("failed")
    world.put(KEY, "the one that leads\n")
    world.put(f"dev/{RUN}/logs/node-1/bootstrap.log", "the other\n")
    assert Shown(world).out == "the one that leads\n"
    assert Shown(world, node=1).out == "the other\n"


def test_the_console_is_that_of_the_machine_that_was_asked_for(world: Any) -> None:
    first, second = world.start_instance(), world.start_instance()
    world.end_run("failed", instance={"id": first, "ids": [first, second], "type": "t3.medium"})
    world.put(KEY, "the one that leads\n")
    shown = Shown(world, node=1)
    assert shown.code == ExitCode.OK
    assert f"console of {second}" in shown.err


@pytest.mark.parametrize("node", [-1, 1, 2])
def test_a_machine_that_the_run_does_not_have_is_refused(world: Any, node: int) -> None:
    world.end_run("failed", instance={"id": "i-0123456789abcdef0", "type": "t3.medium"})
    world.put(KEY, "the one that leads\n")
    with pytest.raises(UsageProblem, match=f"--node {node}"):
        Shown(world, node=node)


def test_a_machine_that_is_still_to_come_is_waited_for(world: Any) -> None:
    world.put_state("initialization", "launch")
    world.put_run(config={"nodes": 2})
    log = f"dev/{RUN}/logs/node-1/bootstrap.log"
    world.clock.during(2, lambda: (world.put(log, "the other\n"), end(world)))
    assert Shown(world, follow=True, node=1).out == "the other\n"


def test_a_machine_that_the_run_does_not_have_is_not_waited_for(world: Any) -> None:
    world.put_state("training", "step_3")
    world.put_run()
    world.start_instance()
    world.put(KEY, "the one that leads\n")
    with pytest.raises(UsageProblem, match="the last machine of run"):
        Shown(world, follow=True, node=7)


# -- parts and sources ----------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of 10 bytes, read 4 bytes at a time."""
    monkeypatch.setattr(log_parts, "LOG_PART_BYTES", 10)
    monkeypatch.setattr(log_parts, "CHUNK_BYTES", 4)
    return 10


def put_log(world: Any, text: str) -> None:
    """As upload_log leaves a log that has come so far."""
    data = text.encode()
    for number, first in enumerate(range(0, len(data), 10), 1):
        world.put(KEY if number == 1 else f"{KEY}.{number:05d}", data[first : first + 10])


TALE = "höhe 1\nhöhe 2\nhöhe 3\nhöhe 4\nthe end\n"


def test_both_sides_have_parts_of_one_size() -> None:
    script = (REPOSITORY / "shell/lib/companions.sh").read_text()
    assert "readonly LOG_PART_BYTES=$((8 * 1024 * 1024))\n" in script
    assert log_parts.LOG_PART_BYTES == 8 * 1024 * 1024


def test_a_log_in_parts_is_read_in_a_row(world: Any, small_parts: int) -> None:
    world.end_run("succeeded")
    put_log(world, TALE)
    assert len(world.keys(KEY)) == 4
    assert Shown(world).out == TALE
    assert Shown(world, grep="2|end").out == "höhe 2\nthe end\n"


def test_a_log_of_exactly_one_part_ends_there(world: Any, small_parts: int) -> None:
    world.end_run("succeeded")
    put_log(world, "123456789\n")
    assert Shown(world).out == "123456789\n"


def test_following_goes_on_in_the_next_part(world: Any, small_parts: int) -> None:
    world.put_run()
    world.put_state("training", "step_1")
    for nth, count in enumerate((4, 10, 13, 20, 31, 40), 1):
        world.clock.during(
            nth, lambda count=count: put_log(world, TALE.encode()[:count].decode(errors="ignore"))
        )
    world.clock.during(8, lambda: (put_log(world, TALE), end(world)))
    assert Shown(world, follow=True).out == TALE


def test_the_tail_is_that_of_the_newest_part(world: Any, small_parts: int) -> None:
    tail = log_parts.LogTail(world.s3, world.bucket, KEY)
    assert tail.read(6) == b""
    for text, seen in (
        ("abc", b"abc"),
        ("abcdefghij", b"efghij"),
        ("abcdefghijk", b"fghijk"),
        (TALE + "x", b" end\nx"),
    ):
        put_log(world, text)
        assert tail.read(6) == seen
    world.s3.calls.clear()
    assert tail.read(6) == b"x"
    assert world.s3.calls == ["get_object"]


MIXED = (
    "cloud-init| user data: fetched 30 scripts\n2025-01-15T14:30:40Z INFO  phase training\nwrapper: starts\n"
    'trainer| {"event": "metric", "step": 10}\nkernel| 2025-01-15T14:31:00Z NVRM: Xid 79\n'
    "trainer| a| b\na table | with bars\n"
)


@pytest.mark.parametrize(
    ("source", "lines"),
    [("cloud-init", [0]), ("bootstrap", [1, 2, 6]), ("trainer", [3, 5]), ("kernel", [4])],
)
def test_lines_of_one_source(world: Any, source: str, lines: list[int]) -> None:
    world.end_run("succeeded")
    world.put(KEY, MIXED)
    assert Shown(world, source=source).out.splitlines() == [MIXED.splitlines()[nth] for nth in lines]


def test_source_and_pattern_go_together(world: Any) -> None:
    world.end_run("succeeded")
    world.put(KEY, MIXED)
    assert Shown(world, source="trainer", grep=r"\|.*b$").out == "trainer| a| b\n"


def test_what_is_no_source_is_refused_before_any_call(world: Any) -> None:
    with pytest.raises(UsageProblem, match="bootstrap, cloud-init, kernel, trainer"):
        Shown(world, source="gpu")
    assert world.s3.calls == []
