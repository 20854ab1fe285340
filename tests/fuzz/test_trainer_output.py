"""What a trainer prints: a gigabyte without a line's end, no text at all, lines that look like metrics."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonsense import FUZZ, JSON, dumped, flawed, flawed_bytes

from chronos_ec2.instance import collector as collector_module
from chronos_ec2.instance.collector import Collector
from chronos_ec2.instance.line_splitter import MAX_LINE_BYTES, LineSplitter
from chronos_ec2.instance.training_record import TrainingRecord
from chronos_ec2.instance.wrapper import find_model
from faults.tools.tally import Tally

METRIC = {"event": "metric", "step": 10, "loss": 0.5, "lr": 1e-4, "epoch": 1, "samples_per_second": 3.5}
FINAL = {
    "event": "final",
    "metrics": {"WQL": 0.1, "MASE": 1.0},
    "baselines": {"seasonal_naive": {"WQL": 1}},
    "model_path": "models/model.pkl",
}
HUGGING_FACE = b"{'loss': '11.62', 'grad_norm': nan, 'learning_rate': np.float64(1e-05), 'epoch': '2'}"
LINES = (
    flawed(METRIC).map(dumped)
    | flawed(FINAL).map(dumped)
    | flawed_bytes(HUGGING_FACE)
    | flawed_bytes(dumped(METRIC))
    | JSON.map(dumped)
    | st.binary(max_size=80)
    | st.sampled_from(
        [b"{'a" * 9000, b"[" * 60_000 + b"{}", b'{"event":"metric","step":' + b"9" * 5000 + b"}"]
    )
)

STARTED = datetime(2026, 11, 24, tzinfo=UTC)


def collected(printed: bytes, piece: int, output: Path) -> list[str]:
    """Put what was printed through splitter and collector to the end; what the wrapper says of it."""
    said: list[str] = []
    record = TrainingRecord({}, STARTED, now=lambda: STARTED)
    collector = Collector(output, record, said.append, monotonic=iter(range(10**9)).__next__)
    splitter = LineSplitter()
    for start in range(0, len(printed), piece * 64):
        collector.take("stderr", splitter.feed(printed[start : start + piece * 64]))
    collector.take("stderr", splitter.finish())
    assert len(collector.last_words) <= 500
    record.model_file = find_model(output, record.model_path)
    collector.conclude(record.document("failed"))
    return said


@FUZZ
@given(st.lists(LINES, max_size=6), st.integers(1, 64))
def test_whatever_is_printed_is_kept_and_what_is_recorded_is_json(
    tally: Tally, lines: list[bytes], piece: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("wb") as nowhere:
        output = Path(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(collector_module._FILE_DESCRIPTORS, "stderr", nowhere.fileno())
            said = collected(b"\n".join(lines), piece, output)
        assert said == [], "nothing was lost on the way"
        assert_strict(output)
    tally.count("trainer's output", "kept")


def assert_strict(output: Path) -> None:
    """What was recorded is JSON that every reader takes, and text that can be written."""
    for text in [
        *(output / "metrics.jsonl").read_text().splitlines(),
        (output / "training.json").read_text(),
    ]:
        read = json.loads(text, parse_constant=pytest.fail)
        json.dumps(read, ensure_ascii=False).encode()


def test_a_line_without_an_end_takes_no_memory(tally: Tally) -> None:
    """In another process, whose largest size is looked at; the long form streams a gigabyte."""
    chunks = (16 if tally.full else 1) * 1024
    code = (
        "import resource\nfrom chronos_ec2.instance.line_splitter import LineSplitter\n"
        "splitter, chunk = LineSplitter(), bytes(65536)\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"lines = sum(len(splitter.feed(chunk)) for _ in range({chunks})) + len(splitter.finish())\n"
        "print(lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines, grown = map(int, done.stdout.split())
    assert lines == 1 and grown * (1 if sys.platform == "darwin" else 1024) < 8 * 2**20
    tally.count("MiB on one line", "streamed", chunks // 16)


@FUZZ
@given(st.binary(max_size=300), st.integers(8, 40))
def test_no_line_is_longer_than_the_limit(data: bytes, limit: int) -> None:
    splitter = LineSplitter(limit)
    for line in splitter.feed(data * 4) + splitter.finish():
        assert len(line) <= limit + len(f" [line cut at {limit} bytes]")
    assert MAX_LINE_BYTES < 2**20
