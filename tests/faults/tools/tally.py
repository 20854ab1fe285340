"""Counts of what was proven, for the end of the run and for a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

CELL: Final = "cell of the matrix"
"""The property of a test that has played one: its fault, its phase, and how the run ended."""
STRUCK: Final = "runs struck in a phase"
"""How a session counts the cells that it has played."""


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

    def counts(self) -> dict[str, Any]:
        """Everything counted, as plain data."""
        return {"cases": {proof: dict(ends) for proof, ends in self._cases.items()}}

    def merge(self, counts: Mapping[str, Any]) -> None:
        """Add what another process has counted."""
        for proof, outcomes in counts.get("cases", {}).items():
            for outcome, times in outcomes.items():
                self.count(proof, outcome, times)

    def lines(self) -> Iterator[str]:
        """The counts as text."""
        form = "full" if self.full else "short"
        yield f"{self.title}, {form} form, seed {self.seed}"
        for proof, outcomes in self._cases.items():
            ends = ", ".join(f"{times} {outcome}" for outcome, times in sorted(outcomes.items()))
            yield f"  {proof}: {outcomes.total()} cases ({ends})"

    def proofs(self) -> dict[str, tuple[int, str]]:
        """By proof, its cases and how they ended."""
        return {
            proof: (ends.total(), "; ".join(f"{times} {end}" for end, times in sorted(ends.items())))
            for proof, ends in self._cases.items()
        }

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not self._cases
