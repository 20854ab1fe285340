"""models/model.pkl: the model in one file, a pickle of plain values only: loading it runs no code of its own.

{"format": "chronos-ec2/chronos-2", "format_version": 1, "framework": "chronos-forecasting",
 "config": {config.json}, "weights_safetensors": bytes, "metadata": {...}}
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.trainers.chronos.model import load_model
from chronos_ec2.instance.trainers.chronos.network import Network
from chronos_ec2.instance.trainers.plain_pickle import read_plain, write_plain
from chronos_ec2.start_model import CONFIG, WEIGHTS

FORMAT: Final = "chronos-ec2/chronos-2"
FORMAT_VERSION: Final = 1
_FRAMEWORK: Final = "chronos-forecasting"


def write_pickle(path: Path, model_folder: Path, metadata: dict[str, Any]) -> None:
    """Write the model of a folder as one file; the same model and metadata give the same bytes.

    Args:
        path: the file, models/model.pkl in a run.
        model_folder: with config.json and model.safetensors.
        metadata: facts to keep with it: numbers, text, lists and dicts of these.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "framework": _FRAMEWORK,
        "config": json.loads((model_folder / CONFIG).read_text(encoding="utf-8")),
        "weights_safetensors": (model_folder / WEIGHTS).read_bytes(),
        "metadata": metadata,
    }
    write_plain(path, content)


def read_pickle(path: Path) -> Network:
    """Read a model that `write_pickle` wrote.

    Raises:
        ChronosError: the file is not such a model, or refers to any class or function: loading that would
            run code of the file's choosing, so it is refused.
    """
    content = read_plain(path, FORMAT, FORMAT_VERSION)
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / CONFIG).write_text(json.dumps(content["config"]), encoding="utf-8")
            (Path(folder) / WEIGHTS).write_bytes(content["weights_safetensors"])
        except (KeyError, TypeError) as error:
            raise ChronosError(f"{path}: the model is damaged ({error}); fetch it again") from error
        return load_model(Path(folder))
