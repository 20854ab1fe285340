"""The files that a report is put together from: ours, and the drawing library's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIBRARY: Final = {
    "uPlot.iife.min.js": "dist/uPlot.iife.min.js",
    "uPlot.min.css": "dist/uPlot.min.css",
    "uPlot-LICENSE": "LICENSE",
}
"""The drawing library's files: their names beside the template on an instance, and in its npm package."""


@dataclass(frozen=True, slots=True)
class PageParts:
    """Where the page's template and script lie, and the drawing library's files.

    Attributes:
        templates: holds report.html.j2, report.css, report.js.
        library: a path for each name of `LIBRARY`.
    """

    templates: Path
    library: Mapping[str, Path]

    @classmethod
    def in_one_folder(cls, folder: Path) -> PageParts:
        """All of them beside each other, as on an instance."""
        return cls(folder, {name: folder / name for name in LIBRARY})
