"""Faults x phases: a whole run for each, its right end, and nothing left."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest
from tools.lab import Lab
from tools.matrix import Fault, play
from tools.matrix_faults import FAULTS
from tools.tally import CELL, STRUCK, Tally

from chronos_ec2.workstation.watch_screen import PHASES

SHORT: Final = {("GPU gone", "gpu_preflight")}
CELLS: Final = [
    pytest.param(fault, phase, id=f"{fault.name}-{phase}")
    for fault in FAULTS
    for phase in PHASES
    if phase in fault.ends
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The short form plays one cell."""
    full = bool(metafunc.config.getoption("--full", False))
    cells = [cell for cell in CELLS if full or (cell.values[0].name, cell.values[1]) in SHORT]
    metafunc.parametrize(("fault", "phase"), cells)


def test_a_struck_run(
    lab: Lab,
    tally: Tally,
    chance: random.Random,
    record_property: Callable[[str, object], None],
    fault: Fault,
    phase: str,
) -> None:
    end = play(lab, fault, phase, chance)
    record_property(CELL, (fault.name, phase, end))
    tally.count(STRUCK, end)
