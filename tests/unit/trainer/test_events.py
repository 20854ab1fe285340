from __future__ import annotations

import io
import json

import numpy as np

from chronos_ec2.instance.events import EventWriter


class CountingStream(io.StringIO):
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_each_event_is_one_flushed_line_of_json() -> None:
    stream = CountingStream()
    events = EventWriter(stream)
    events.emit("metric", step=np.int64(3), loss=np.float32(0.5), note="two\nlines")
    events.emit("start", params={"a": [1, np.float64(2)]})
    lines = stream.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "metric", "step": 3, "loss": 0.5, "note": "two\nlines"},
        {"event": "start", "params": {"a": [1, 2.0]}},
    ]
    assert stream.flushes == 2


def test_numbers_that_json_has_not_become_null() -> None:
    stream = io.StringIO()
    EventWriter(stream).emit("eval", WQL=float("nan"), MASE=np.float32("inf"), rest=[-float("inf")])
    assert json.loads(stream.getvalue()) == {"event": "eval", "WQL": None, "MASE": None, "rest": [None]}
