"""models/model.pkl: a pickle of plain values only, which no code has to be trusted to load.

{"format": "chronos-ec2/linear-quantile", "format_version": 1, "shape": {...}, "quantile_levels": [...],
 "weights": {"dtype": "<f4", "shape": [rows, columns], "data": bytes}, "metadata": {...}}
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.metrics import QUANTILE_LEVELS
from chronos_ec2.instance.trainers.model import LinearQuantileModel, Shape
from chronos_ec2.instance.trainers.plain_pickle import read_plain, write_plain

FORMAT: Final = "chronos-ec2/linear-quantile"
FORMAT_VERSION: Final = 1
_DTYPE: Final = "<f4"


def save_model(path: Path, model: LinearQuantileModel, metadata: dict[str, Any]) -> None:
    """Write a model; the same model and metadata give the same bytes.

    Args:
        path: the file, models/model.pkl in a run.
        model: what to write.
        metadata: facts to keep with it: numbers, text, lists and dicts of these.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "shape": asdict(model.shape),
        "quantile_levels": list(QUANTILE_LEVELS),
        "weights": {
            "dtype": _DTYPE,
            "shape": list(model.weights.shape),
            "data": model.weights.astype(_DTYPE).tobytes(),
        },
        "metadata": metadata,
    }
    write_plain(path, content)


def load_model(path: Path) -> LinearQuantileModel:
    """Read a model that `save_model` wrote.

    Args:
        path: the file.

    Returns:
        The model, ready to forecast.

    Raises:
        ChronosError: the file is not such a model, or refers to any class or function: loading that would
            run code of the file's choosing, so it is refused.
    """
    content = read_plain(path, FORMAT, FORMAT_VERSION)
    try:
        packed = content["weights"]
        weights = np.frombuffer(packed["data"], dtype=packed["dtype"]).reshape(packed["shape"])
        return LinearQuantileModel(Shape(**content["shape"]), weights.astype(np.float32))
    except (KeyError, TypeError, ValueError) as error:
        raise ChronosError(f"{path}: the model is damaged ({error}); fetch it again") from error
