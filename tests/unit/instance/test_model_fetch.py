"""The start model: what is taken for one, from S3 to a folder that a trainer reads."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import NotUploaded, SettingsError, StorageDenied
from chronos_ec2.instance.model_fetch import fetch_model, main
from chronos_ec2.start_model import read_model_config

from .conftest import BUCKET
from .fakes import FakeS3, Fault

PREFIX = "cached-datasets/models/0123/"
URI = f"s3://{BUCKET}/{PREFIX}"
CONFIG = {"chronos_pipeline_class": "Chronos2Pipeline", "d_model": 64}


def weights(payload: bytes = b"weights!", promised: int | None = None) -> bytes:
    """A safetensors file with one tensor."""
    end = len(payload) if promised is None else promised
    head = json.dumps(
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}}
    )
    return struct.pack("<Q", len(head)) + head.encode() + payload


@pytest.fixture
def model(s3: FakeS3) -> FakeS3:
    """A bucket with a model in it."""
    s3.objects[f"{BUCKET}/{PREFIX}config.json"] = json.dumps(CONFIG).encode()
    s3.objects[f"{BUCKET}/{PREFIX}model.safetensors"] = weights()
    s3.objects[f"{BUCKET}/{PREFIX}pytorch_model.bin"] = b"runs code"
    return s3


@pytest.mark.usefixtures("model")
def test_the_two_files_come_and_replace_what_was_there(s3_client: Any, tmp_path: Path) -> None:
    into = tmp_path / "start model"
    into.mkdir()
    (into / "old").touch()
    assert fetch_model(s3_client, URI.rstrip("/"), into) == len(weights()) + len(json.dumps(CONFIG))
    assert sorted(path.name for path in into.iterdir()) == ["config.json", "model.safetensors"]
    assert read_model_config(into) == CONFIG
    assert [path.name for path in tmp_path.iterdir()] == ["start model"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(model: FakeS3, s3_client: Any, tmp_path: Path, name: str) -> None:
    del model.objects[f"{BUCKET}/{PREFIX}{name}"]
    with pytest.raises(NotUploaded, match=rf"{PREFIX}{name} is not there.*invoke upload --model"):
        fetch_model(s3_client, URI, tmp_path / "into")


@pytest.mark.parametrize("altered", [None, "config.json", "model.safetensors"])
def test_below_a_name_made_of_its_content_it_must_be_that(
    model: FakeS3, s3_client: Any, tmp_path: Path, altered: str | None
) -> None:
    bodies = {
        name: model.objects[f"{BUCKET}/{PREFIX}{name}"] for name in ("config.json", "model.safetensors")
    }
    digests = "".join(hashlib.sha256(body).hexdigest() for body in bodies.values())
    prefix = f"cached-datasets/models/{hashlib.sha256(digests.encode()).hexdigest()[:16]}/"
    if altered:
        other = {
            "config.json": json.dumps(CONFIG | {"d_model": 65}).encode(),
            "model.safetensors": weights(b"weights?"),
        }
        bodies[altered] = other[altered]
    model.objects |= {f"{BUCKET}/{prefix}{name}": body for name, body in bodies.items()}
    into = tmp_path / "into"
    if altered:
        with pytest.raises(NotUploaded, match="altered in the bucket"):
            fetch_model(s3_client, f"s3://{BUCKET}/{prefix}", into)
        assert not into.exists()
    else:
        assert fetch_model(s3_client, f"s3://{BUCKET}/{prefix}", into) > 0


def test_a_refusal_is_told_as_one(model: FakeS3, s3_client: Any, tmp_path: Path) -> None:
    model.faults.append(Fault("HEAD", PREFIX, 403, "AccessDenied"))
    with pytest.raises(StorageDenied, match="instance profile"):
        fetch_model(s3_client, URI, tmp_path / "into")


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("config.json", b"{", "is not JSON"),
        pytest.param("config.json", b"[" * 200_000, "is not JSON", id="nested beyond measure"),
        ("config.json", b"[]", "no Chronos-2 model"),
        ("config.json", b'{"chronos_pipeline_class": "ChronosBoltPipeline"}', "ChronosBoltPipeline"),
        ("model.safetensors", b"", "0 bytes"),
        ("model.safetensors", b"\x80\x04\x95pickle", "header's length is beyond its end"),
        ("model.safetensors", struct.pack("<Q", 3) + b"{]}", "header cannot be read"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]", "header cannot be read"),
        ("model.safetensors", weights(promised=9), "its header says"),
        ("model.safetensors", weights()[:-1], "its header says"),
    ],
)
def test_what_is_no_model_is_refused_and_leaves_the_old_one(
    model: FakeS3, s3_client: Any, tmp_path: Path, name: str, body: bytes, words: str
) -> None:
    model.objects[f"{BUCKET}/{PREFIX}{name}"] = body
    into = tmp_path / "into"
    into.mkdir()
    (into / "old").touch()
    with pytest.raises(SettingsError, match=words):
        fetch_model(s3_client, URI, into)
    assert (into / "old").exists()


def test_the_command_line_says_what_it_did(
    model: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in model.environment().items():
        monkeypatch.setenv(name, value)
    into = tmp_path / "into"
    assert main(["--model-id", URI, "--into", str(into)]) == 0
    assert "fetched and checked" in capsys.readouterr().err
    assert main(["--model-id", f"s3://{BUCKET}/nowhere", "--into", str(into)]) == 18
    with pytest.raises(SystemExit) as ended:
        main(["--model-id", "here", "--into", str(into)])
    assert ended.value.code == 2
