"""How the benchmarks that print a table write their page."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).resolve().parent / "results"


def circumstances(command: str) -> str:
    """What was run, when, and on what machine: the beginning of a sentence."""
    return (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores "
        f"(load {os.getloadavg()[0]:.0f}), {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
    return "\n".join(lines)


def write_page(into: Path, title: str, *paragraphs: str) -> str:
    """Write a page, its folder too when it is missing; returns the text."""
    text = "\n\n".join([f"# {title}", *paragraphs]) + "\n"
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(text, encoding="utf-8")
    return text
