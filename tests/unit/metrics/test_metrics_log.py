"""chronos_ec2/metrics_log.py: the lines of a run's metrics."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chronos_ec2.metrics_log import parse_lines, part_name, sort_records, source_of, time_of


def test_parts_are_numbered_from_one_and_sort_by_name() -> None:
    assert part_name(1) == "metrics/00001.jsonl"
    assert part_name(2) < part_name(10) < part_name(99999)


def test_a_line_that_a_crash_has_cut_costs_that_line_alone() -> None:
    data = b'{"event": "metric", "step": 1}\n[1]\n\nnoise\n{"source": "sampler"}\n{"event": "met'
    assert [source_of(record) for record in parse_lines(data)] == ["trainer", "sampler"]


def test_bytes_that_are_no_text_are_left_out() -> None:
    assert list(parse_lines(b'\xff\xfe{}\n{"step": 2}')) == [{"step": 2}]


def test_records_are_sorted_by_who_wrote_them_in_the_order_of_the_file() -> None:
    machine = {"source": "sampler", "event": "machine"}
    samples = [{"source": "sampler", "cpu_percent": number} for number in (1, 2)]
    training = [{"event": "metric", "step": 10}, {"event": "metric", "step": 20}]
    kernel = {"source": "kernel", "xid": 79}
    log = sort_records([machine, training[0], samples[0], kernel, training[1], samples[1]])
    assert log.training == tuple(training)
    assert log.samples == tuple(samples)
    assert log.events == (machine,)
    assert log.kernel == (kernel,)


def test_a_trainer_may_have_a_source_of_its_own() -> None:
    assert source_of({"event": "metric", "source": "validation set"}) == "trainer"


@pytest.mark.parametrize("text", [None, 17, "yesterday", "2026-11-27T17:06:30", "0001-01-01T00:00:00+05:00"])
def test_a_time_that_is_none_is_no_time(text: object) -> None:
    assert time_of({"t": text}) is None


def test_a_time_is_read_in_any_zone() -> None:
    moment = datetime(2026, 11, 27, 17, 6, 30, tzinfo=UTC)
    assert time_of({"t": "2026-11-27T17:06:30Z"}) == moment
    assert time_of({"t": "2026-11-27T18:06:30+01:00"}) == moment
