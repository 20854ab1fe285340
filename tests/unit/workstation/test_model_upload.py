"""Models on their way to the bucket: checked first, named by their content, the config last."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.model_upload import upload_model

BUCKET = "chronos-test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = json.dumps({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"ab")
    (tmp_path / "config.json").write_text(json.dumps({"chronos_pipeline_class": "Chronos2Pipeline"}))
    (tmp_path / "optimizer.pt").touch()
    return tmp_path


def test_a_model_lies_under_a_name_of_its_content(world: Any, folder: Path) -> None:
    first = upload_model(world.s3, BUCKET, folder)
    assert first.startswith(f"s3://{BUCKET}/cached-datasets/models/")
    prefix = first.removeprefix(f"s3://{BUCKET}/")
    assert world.keys() == [f"{prefix}config.json", f"{prefix}model.safetensors"]
    assert upload_model(world.s3, BUCKET, folder) == first
    assert world.s3.calls.count("put_object") == 2
    (folder / "config.json").write_text(
        json.dumps({"chronos_pipeline_class": "Chronos2Pipeline", "d_model": 1})
    )
    assert upload_model(world.s3, BUCKET, folder) != first


def test_the_config_comes_last(world: Any, folder: Path) -> None:
    world.s3.fail("put_object", "InternalError")
    with pytest.raises(Exception, match="InternalError"):
        upload_model(world.s3, BUCKET, folder)
    assert world.keys() == []
    upload_model(world.s3, BUCKET, folder)
    dates = {
        item["Key"].rpartition("/")[2]: item["LastModified"]
        for item in world.real_s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    }
    assert dates["model.safetensors"] <= dates["config.json"]


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_what_is_no_model_is_not_sent(world: Any, folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(SettingsError, match=gone):
        upload_model(world.s3, BUCKET, folder)
    with pytest.raises(SettingsError, match="is not a folder"):
        upload_model(world.s3, BUCKET, folder / "nowhere")
    assert world.keys() == []
