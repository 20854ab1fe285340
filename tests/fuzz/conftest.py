"""Generated nonsense for everything that reads what others wrote: no traceback, no hang, no growth, no shell.

The short form runs with all other tests and always generates the same. The long form:

    invoke fuzz [--seed N] [--examples N]
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from types import FrameType

import hypothesis
import nonsense
import pytest

from faults.tools.tally import Tally

PATIENCE_SECONDS = 120
_TALLY = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The form, and how much of it."""
    group = parser.getgroup("fuzz")
    group.addoption("--long", action="store_true", help="tests/fuzz: new input, and much of it")
    group.addoption("--examples", type=int, default=2000, help="tests/fuzz --long: inputs for each test")


def pytest_configure(config: pytest.Config) -> None:
    """One seed and one tally a session."""
    long = bool(config.getoption("--long", False))
    seed = config.getoption("--hypothesis-seed", None)
    seed = int(seed) if str(seed).isdigit() else random.randrange(10**6) if long else 0
    config.stash[_TALLY] = Tally(seed, long, "generated input")
    if long:
        nonsense.FUZZ = nonsense.form(config.getoption("--examples", 2000), derandomize=False)
        hypothesis.core.global_force_seed = seed


@pytest.fixture(autouse=True)
def form(tally: Tally) -> Iterator[None]:
    """The settings of this form, here alone; what hangs is a failure."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"a reader has not come back in {patience} s")

    patience = PATIENCE_SECONDS * (30 if tally.full else 1)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(patience)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts, seed and form of this session."""
    found = request.config.stash[_TALLY]
    print(f"seed {found.seed}")  # shown with a failure
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the counts and the seed."""
    tally = config.stash.get(_TALLY, None)
    if tally is not None and not tally.empty:
        for line in tally.lines():
            terminalreporter.write_line(line)
