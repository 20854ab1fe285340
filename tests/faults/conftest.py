"""Proofs that the state file holds under contention, crash, lost answers and corruption.

The short form runs with all other tests. The full form:

    invoke faults [--seed N] [--report FILE.md]
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tools.lab import Lab
from tools.proof_page import page
from tools.tally import CELL, STRUCK, Tally

_STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The form, its seed, and where its result goes."""
    group = parser.getgroup("faults")
    group.addoption("--full", action="store_true", help="tests/faults: every case instead of a choice")
    group.addoption("--seed", type=int, default=None, help="tests/faults: seed of what is left to chance")
    group.addoption("--report", type=Path, default=None, help="tests/faults: page that gets the counts")


def pytest_configure(config: pytest.Config) -> None:
    """One tally a session; processes that share its tests share its seed."""
    seed = config.getoption("--seed", None)
    if seed is None:
        seed = getattr(config, "workerinput", {}).get("faults_seed", random.randrange(10**6))
    full = bool(config.getoption("--full", False))
    config.stash[_TALLY] = Tally(seed, full)
    if full and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_SayAtOnce(config))
        if (report := config.getoption("--report", None)) is not None:
            config.pluginmanager.register(_KeepAtOnce(config, report))


_TALLY = pytest.StashKey[Tally]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed to a process of pytest-xdist."""
    node.workerinput["faults_seed"] = node.config.stash[_TALLY].seed


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a process of pytest-xdist has counted."""
    counted = getattr(node, "workeroutput", {}).get("faults_tally", {})
    node.config.stash[_TALLY].merge(counted)


class _SayAtOnce:
    """Prints a failure when it happens: the full form has an hour to go then."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Told of every test's end."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.write_line(f"\n{report.nodeid} failed:\n{report.longreprtext}")


class _KeepAtOnce:
    """Puts a cell of the matrix on the page when it has held: all of them take hours."""

    def __init__(self, config: pytest.Config, report: Path) -> None:
        self._config, self._report = config, report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Told of every test's end, also of those in other processes."""
        for name, value in report.user_properties if report.passed and report.when == "teardown" else ():
            if name == CELL:
                fault, phase, end = value
                _write(self._config, self._report, {}, {fault: {phase: end}})


def _write(
    config: pytest.Config, report: Path, proofs: Mapping[str, Any], cells: Mapping[str, Mapping[str, str]]
) -> None:
    files = sorted({word.partition("::")[0].rpartition("/")[2] for word in config.args})
    minutes = (time.monotonic() - _STARTED) / 60
    seed = config.stash[_TALLY].seed
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    made = f"{', '.join(files)}, {day}, seed {seed}, {minutes:.0f} min"
    old = report.read_text() if report.exists() else ""
    report.write_text(page(old, proofs, cells, made, day))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the counts and the seed."""
    tally = config.stash.get(_TALLY, None)
    if tally is None or tally.empty:
        return
    for line in tally.lines():
        terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the report of a run in which everything held."""
    report = session.config.getoption("--report", None)
    tally = session.config.stash.get(_TALLY, None)
    if tally is not None and hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults_tally"] = tally.counts()
    elif report is not None and tally is not None and exitstatus == 0:
        # The cells of the matrix are on the page one by one: how many a session played says nothing of it.
        proofs = {proof: found for proof, found in tally.proofs().items() if proof != STRUCK}
        _write(session.config, report, proofs, {})


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts, seed and form of this session."""
    found = request.config.stash[_TALLY]
    print(f"seed {found.seed}")  # shown with a failure
    return found


@pytest.fixture(scope="session")
def full(tally: Tally) -> bool:
    """Whether every case is asked for."""
    return tally.full


@pytest.fixture(scope="session")
def chance(tally: Tally) -> random.Random:
    """What is left to chance, from the seed."""
    return random.Random(tally.seed)


@pytest.fixture(scope="session")
def built_lab() -> Iterator[Lab]:
    """The embedded AWS of the proofs."""
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def lab(built_lab: Lab) -> Iterator[Lab]:
    """The embedded AWS with nothing in it; the history of the test's writes is checked at its end."""
    built_lab.clear()
    yield built_lab
    built_lab.history.check()
    built_lab.put_guests_to_sleep(True)
