"""The library's own model and pipeline, to compare with; imported when asked for, as that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def library_model(folder: Path) -> Any:
    """The library's Chronos2Model of a folder."""
    from chronos.chronos2.model import Chronos2Model

    return Chronos2Model.from_pretrained(folder)


def library_pipeline(folder: Path) -> Any:
    """The library's pipeline for the model of a folder, which must be one for Chronos-2."""
    from chronos import BaseChronosPipeline, Chronos2Pipeline

    pipeline = BaseChronosPipeline.from_pretrained(folder)
    assert isinstance(pipeline, Chronos2Pipeline)
    return pipeline
