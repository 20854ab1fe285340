"""Counts of what was proven, for the end of the run and for a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime


class Tally:
    """How often each proof was made, and how each case ended."""

    def __init__(self, seed: int, full: bool, title: str = "fault proofs") -> None:
        self.seed = seed
        self.title = title
        self.full = full
        self._cases: dict[str, Counter[str]] = {}

    def count(self, proof: str, outcome: str, times: int = 1) -> None:
        """Note that a case of a proof ended in some way that the proof allows."""
        self._cases.setdefault(proof, Counter())[outcome] += times

    def counts(self) -> dict[str, dict[str, int]]:
        """Everything counted, by proof and outcome, as plain data."""
        return {proof: dict(outcomes) for proof, outcomes in self._cases.items()}

    def merge(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add what another process has counted."""
        for proof, outcomes in counts.items():
            for outcome, times in outcomes.items():
                self.count(proof, outcome, times)

    def lines(self) -> Iterator[str]:
        """The counts as text."""
        form = "full" if self.full else "short"
        yield f"{self.title}, {form} form, seed {self.seed}"
        for proof, outcomes in self._cases.items():
            ends = ", ".join(f"{times} {outcome}" for outcome, times in sorted(outcomes.items()))
            yield f"  {proof}: {outcomes.total()} cases ({ends})"

    def markdown(self, command: str, seconds: float) -> str:
        """The counts as a page."""
        rows = [
            f"| {proof} | {outcomes.total()} | "
            + "; ".join(f"{times} {outcome}" for outcome, times in sorted(outcomes.items()))
            + " |"
            for proof, outcomes in self._cases.items()
        ]
        head = (
            f"Made on {datetime.now(UTC):%Y-%m-%d} by `{command}` (seed {self.seed}) "
            f"in {seconds / 60:.0f} minutes. Every case held; a case that had not would have ended the run."
        )
        heading = f"# {self.title.capitalize()}"
        columns = ["| proof | cases | how they ended |", "|---|---|---|"]
        return "\n".join([heading, "", head, "", *columns, *rows, ""])

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not self._cases
