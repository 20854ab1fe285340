"""How tests are dealt out to processes: whole runs share one embedded AWS, a file's tests its fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_LONGEST_FIRST = ("e2e", "faults", "fuzz", "cdk", "unit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests come first, so that no process is left with one when the others have nothing more to do."""
    items.sort(key=lambda item: _LONGEST_FIRST.index(_place(item).parts[0]))
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        place = _place(item)
        item.add_marker(pytest.mark.xdist_group("e2e" if place.parts[0] == "e2e" else str(place)))


def _place(item: pytest.Item) -> Path:
    return item.path.relative_to(_HERE)
