"""Lines of trainers, as they were captured, and lines that only look like them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronos_ec2.instance.line_splitter import LineSplitter
from chronos_ec2.instance.metric_lines import parse_line


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"event": "metric", "step": 3, "loss": 0.5}', {"event": "metric", "step": 3, "loss": 0.5}),
        ('[rank0]: {"event": "eval", "WQL": 0.1}', {"event": "eval", "WQL": 0.1}),
        ('{"step": 3, "loss": 0.5}', {"event": "metric", "step": 3, "loss": 0.5}),
        (
            "{'loss': 11.0781, 'grad_norm': 0.673, 'learning_rate': 0.00448, 'epoch': 0.1667}",
            {"event": "metric", "loss": 11.0781, "grad_norm": 0.673, "lr": 0.00448, "epoch": 0.1667},
        ),
        (
            "{'loss': '11.62', 'grad_norm': '1.5', 'learning_rate': '1e-05', 'epoch': '2'}",
            {"event": "metric", "loss": 11.62, "grad_norm": 1.5, "lr": 1e-05, "epoch": 2.0},
        ),
        (
            " 50%|#####     | 10/20 [00:01<00:01]{'eval_loss': 0.5, 'eval_runtime': 1.0, 'epoch': 1.0}",
            {"event": "eval", "eval_loss": 0.5, "eval_runtime": 1.0, "epoch": 1.0},
        ),
        (
            "{'train_runtime': '3.5', 'train_loss': '0.25', 'epoch': '3'}",
            {"event": "train_summary", "train_runtime": 3.5, "train_loss": 0.25, "epoch": 3.0},
        ),
        ("{'loss': np.float64(0.5)}", {"event": "metric", "loss": 0.5}),
    ],
)
def test_metric_lines_of_every_kind(line: str, event: dict[str, object]) -> None:
    assert parse_line(line) == event


def test_half_a_character_is_the_replacement_of_one_and_a_whole_one_stays() -> None:
    line = r'{"event": "metric", "\ud800": 1.0, "words": ["\uDC00x", "\ud83d\ude00"]}'
    half = "\N{REPLACEMENT CHARACTER}"
    assert parse_line(line) == {"event": "metric", half: 1.0, "words": [f"{half}x", "\N{GRINNING FACE}"]}


def test_bare_nan_is_read() -> None:
    event = parse_line("{'loss': 0.0, 'grad_norm': nan, 'learning_rate': -inf}")
    assert event is not None
    assert math.isnan(event["grad_norm"]) and event["lr"] == -math.inf


@pytest.mark.parametrize(
    "line",
    [
        "plain",
        "{",
        "{}",
        "{'learning_rate': 0.001, 'eval_steps': 100}",
        '{"eval_steps": 100}',
        "{'loss': 'what'}",
        '{"event": 3}',
        '["loss"]',
        "[" * 50_000 + "{}",
        '{"a":' * 20_000 + "1" + "}" * 20_000,
    ],
)
def test_other_lines_are_text(line: str) -> None:
    assert parse_line(line) is None


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}[]'\":, abc019.-\0", max_size=60))
def test_no_line_raises(line: str) -> None:
    parse_line("{" + line)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\xff", "é".encode()])).map(b"".join),
    st.lists(st.integers(0, 80), max_size=6),
)
def test_lines_do_not_depend_on_how_the_bytes_come(data: bytes, cuts: list[int]) -> None:
    whole = LineSplitter()
    expected = whole.feed(data) + whole.finish()
    pieces, edges = LineSplitter(), [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    got = [line for a, b in pairwise(edges) for line in pieces.feed(data[a:b])]
    assert got + pieces.finish() == expected
    assert expected == [line.decode("utf-8", "replace") for line in data.splitlines()]


def test_a_long_line_is_cut_once_and_the_next_is_whole() -> None:
    splitter = LineSplitter(limit=4)
    assert splitter.feed(b"abcdefgh") == ["abcd [line cut at 4 bytes]"]
    assert splitter.feed(b"ijkl") == []
    assert splitter.feed(b"\nabcd\nx") == ["abcd"]
    assert splitter.finish() == ["x"]
