"""What a line of a trainer's output says about the training.

Understood are JSON event lines (`{"event": "metric", "step": 10, "loss": 0.5}`), plain JSON objects that
hold a loss, and the Python dict lines of the Hugging Face Trainer, whose values are numbers in version 4
and strings in version 5. Such a dict may share its line with a progress bar.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from chronos_ec2.state.json_text import decode_json

Event = dict[str, Any]

_HF_DICT: Final = re.compile(r"\{'[^{}]*\}")
# 'loss': 0.5 | 'loss': '0.5' | 'loss': nan | 'loss': np.float64(0.5); literal_eval refuses the last two
_HF_PAIR: Final = re.compile(r"'([^']+)':\s*(?:'([^']*)'|(?:[A-Za-z_][\w.]*\()?([^\s,'(){}]+))")
_TELLING: Final = frozenset({"loss", "eval_loss", "eval_runtime", "train_loss", "train_runtime"})


def parse_line(line: str) -> Event | None:
    """The event that a line holds, or None when it is plain text.

    Returns:
        A mapping whose `event` is a string: the trainer's own event, or `metric`, `eval` or
        `train_summary` for lines that do not name one. The learning rate is `lr` in all of them.
    """
    if "{" not in line:
        return None
    decoded = _json_object(line)
    if decoded is not None:
        if isinstance(decoded.get("event"), str):
            return decoded
        return _classify(decoded)
    for match in reversed(_HF_DICT.findall(line)):
        event = _classify(_hf_values(match))
        if event is not None:
            return event
    return None


def as_number(value: object) -> float | None:
    """A JSON number as a float, which may be NaN or infinite; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _json_object(line: str) -> Event | None:
    """Decode from the first brace on: torchrun puts `[rank0]:` in front."""
    text = line[line.index("{") :].rstrip()
    if not text.endswith("}"):
        return None
    try:
        decoded = decode_json(text)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _hf_values(text: str) -> dict[str, float]:
    values = {}
    for name, quoted, bare in _HF_PAIR.findall(text):
        try:
            values[name] = float(quoted or bare)
        except ValueError:
            continue
    return values


def _classify(values: dict[str, Any]) -> Event | None:
    if _TELLING.isdisjoint(values):
        return None
    named = {"lr" if name == "learning_rate" else name: value for name, value in values.items()}
    if "train_runtime" in values:
        kind = "train_summary"
    elif any(name.startswith("eval_") for name in values):
        kind = "eval"
    else:
        kind = "metric"
    return {**named, "event": kind}
