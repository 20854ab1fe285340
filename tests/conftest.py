"""How tests are dealt out to processes: those of a folder share its slow fixtures, so they stay together."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_HERE = Path(__file__).parent
_LONGEST_FIRST = ("e2e", "faults", "fuzz", "cdk", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first, so that no process is left with one when the others have nothing more to do."""
    items.sort(key=lambda item: _LONGEST_FIRST.index(item.path.relative_to(_HERE).parts[0]))


class _ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return str(PurePosixPath(nodeid.partition("::")[0]).parent)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """`--dist loadscope` deals out folders, each with one embedded AWS or one synthesized stack."""
    return _ByFolder(config, log) if config.getvalue("dist") == "loadscope" else None
