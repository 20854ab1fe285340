"""Counts of what was proven, for the end of the run and for a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


class Tally:
    """How often each proof was made, and how each case ended."""

    def __init__(self, seed: int, full: bool, title: str = "fault proofs") -> None:
        self.seed = seed
        self.title = title
        self.full = full
        self._cases: dict[str, Counter[str]] = {}
        self._cells: dict[str, dict[str, str]] = {}

    def count(self, proof: str, outcome: str, times: int = 1) -> None:
        """Note that a case of a proof ended in some way that the proof allows."""
        self._cases.setdefault(proof, Counter())[outcome] += times

    def cell(self, fault: str, phase: str, end: str) -> None:
        """Note how a run ended that a fault had struck in a phase."""
        self._cells.setdefault(fault, {})[phase] = end

    def counts(self) -> dict[str, Any]:
        """Everything counted and noted, as plain data."""
        return {"cases": {proof: dict(ends) for proof, ends in self._cases.items()}, "cells": self._cells}

    def merge(self, counts: Mapping[str, Any]) -> None:
        """Add what another process has counted."""
        for proof, outcomes in counts.get("cases", {}).items():
            for outcome, times in outcomes.items():
                self.count(proof, outcome, times)
        for fault, ends in counts.get("cells", {}).items():
            for phase, end in ends.items():
                self.cell(fault, phase, end)

    def lines(self) -> Iterator[str]:
        """The counts as text."""
        form = "full" if self.full else "short"
        yield f"{self.title}, {form} form, seed {self.seed}"
        for proof, outcomes in self._cases.items():
            ends = ", ".join(f"{times} {outcome}" for outcome, times in sorted(outcomes.items()))
            yield f"  {proof}: {outcomes.total()} cases ({ends})"
        for fault, cells in sorted(self._cells.items()):
            yield f"  {fault}: " + "; ".join(f"{phase} {end}" for phase, end in cells.items())

    def proofs(self) -> dict[str, tuple[int, str]]:
        """By proof, its cases and how they ended."""
        return {
            proof: (ends.total(), "; ".join(f"{times} {end}" for end, times in sorted(ends.items())))
            for proof, ends in self._cases.items()
        }

    def cells(self) -> dict[str, dict[str, str]]:
        """By fault and phase, how the struck run ended."""
        return self._cells

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not self._cases and not self._cells
