"""What a trainer tells its wrapper: one JSON object a line on stdout.

The wrapper reads these lines while the trainer runs, so each is flushed at once. JSON has no NaN and no
infinity: both are written as null.
"""

from __future__ import annotations

import json
import math
from typing import Any, TextIO


class EventWriter:
    """Writes events to a text stream.

    Args:
        stream: where the lines go; stdout in a run.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def emit(self, event: str, **fields: Any) -> None:
        """Write `{"event": event, ...}` as one line and flush it.

        Args:
            event: the event's name: start, metric, eval, checkpoint, resume, warning, train_end or final.
            fields: its values: text, numbers (NumPy's too), lists and dicts of these.

        Raises:
            BrokenPipeError: nobody reads the stream any more.
        """
        line = json.dumps({"event": event, **{key: plain(value) for key, value in fields.items()}})
        self._stream.write(line + "\n")
        self._stream.flush()


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: NumPy scalars to numbers, non-finite numbers to None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "item"):
        return plain(value.item())
    return value
