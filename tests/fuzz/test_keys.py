"""Keys of S3: any UTF-8 up to 1024 bytes. Nothing of them leaves the folder, and none keeps the rest back."""

from __future__ import annotations

import io
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nonsense
from hypothesis import example, given
from hypothesis import strategies as st
from nonsense import FUZZ

from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.workstation.fetch import fetch
from chronos_ec2.workstation.run_ids import run_prefix
from faults.tools.tally import Tally

RUN = "2025-01-15-143022"
PLAIN = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
ODD = [
    "..",
    ".",
    "",
    "etc",
    "/",
    "\\",
    "~",
    "$HOME",
    "a\nb",
    "\x00",
    "\x1b[2J",
    "x" * 255,
    "é" * 200,
    "-rf",
    "*",
]
METRICS = st.lists(
    st.dictionaries(nonsense.TEXTS, nonsense.SCALARS, max_size=3).map(
        lambda figures: nonsense.dumped({**figures, "event": "metric", "step": 1})
    ),
    max_size=3,
).map(b"\n".join)
NAMES = st.lists(PLAIN | st.sampled_from(ODD), min_size=1, max_size=4).map("/".join).filter(len)


class Bucket:
    """Some objects, in the words of a boto3 client; all but the metrics hold the same."""

    def __init__(self, names: list[str], metrics: bytes) -> None:
        self._keys = [f"dev/{RUN}/{name}" for name in names]
        self._metrics = metrics

    def get_paginator(self, _: str) -> Bucket:
        return self

    def paginate(self, *, Prefix: str, **_: Any) -> list[dict[str, Any]]:
        when = datetime(2025, 1, 15, tzinfo=UTC)
        found = [key for key in self._keys if key.startswith(Prefix)]
        return [{"Contents": [{"Key": key, "Size": 4, "ETag": '"e"', "LastModified": when} for key in found]}]

    def download_fileobj(self, _bucket: str, key: str, file: Any, **_: Any) -> None:
        file.write(self._metrics if key == f"dev/{RUN}/metrics.jsonl" else b"evil")


@FUZZ
@example(["a"], nonsense.dumped({"event": "metric", "step": 1, "\ud800": 1.0}))
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True), METRICS)
def test_any_key_is_fetched_into_the_folder_or_refused(
    tally: Tally, names: list[str], metrics: bytes
) -> None:
    with tempfile.TemporaryDirectory() as top:
        into, outside = Path(top) / "results", Path(top) / "outside"
        outside.mkdir()
        (into / RUN).mkdir(parents=True)
        (into / RUN / "etc").symlink_to(outside)
        said = io.StringIO()
        bucket = Bucket(["run.json", "metrics.jsonl", *names], metrics)
        summary = fetch(bucket, "b", "dev", into=into, out=said, run_id=RUN)
        assert not any(character in said.getvalue() for character in "\x1b\x00\r")
        assert list(outside.iterdir()) == [] and sorted(Path(top).iterdir()) == [outside, into]
        assert list(into.iterdir()) == [into / RUN]
        assert (into / RUN / "run.json").read_bytes() == b"evil", "the others are fetched all the same"
        tally.count("key", "fetched", summary.fetched - 2)
        tally.count("key", "refused", len(summary.refused))


@FUZZ
@given(st.text(max_size=40) | nonsense.TEXTS, st.text(max_size=40) | nonsense.TEXTS)
def test_no_name_reaches_a_key_unchecked(tally: Tally, environment: str, run: str) -> None:
    try:
        prefix = run_prefix(environment, run)
    except ChronosError as error:
        assert isinstance(error, SettingsError) or run in str(error) or repr(run) in str(error)
        tally.count("environment and run id", "refused")
        return
    assert prefix.isascii() and prefix.count("/") == 2 and ".." not in prefix
    tally.count("environment and run id", "taken")
