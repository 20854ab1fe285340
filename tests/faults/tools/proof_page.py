"""The page of the documentation of what was proven: a row is replaced when its proof is made anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from chronos_ec2.workstation.watch_screen import PHASES

_HEAD: Final = """# Fault proofs

What `invoke faults` has shown, the full form. Each row says when it was made, by which file and with which
seed: `invoke faults --only tests/faults/FILE --seed SEED --report docs/fault-proofs.md` makes it anew. A row
stands for cases that all held: one that had not would have ended the file without a row. A cell of the matrix
stands for itself, and names its day. A row whose last column says more comes from the summary of a session
whose other tests did not all end well; what it says did hold.
"""
_PROOFS: Final = ("proof", "cases", "how they ended", "made by")
_MATRIX: Final = """## Faults and phases

A whole run for each cell, struck by the fault as it enters the phase: its outcome, who ended the machine if
not the machine itself, `console only` where no log could reach S3, and the day it was played. The last column
is of the cell that was played last. After each: the right exit code of `watch`, the checkpoints in S3, no
instance, no claim, no process, no folder, no mount.

`S3 down` lasts for real seconds. A machine tries a write of the state for two minutes or so, and once that
was in vain, each further one for half a minute. `out of memory` is the kernel's doing, in a memory cgroup
without room. `GPU gone` is told to stand-ins for preflight and trainer, for want of a GPU: it shows what
becomes of the run, not how a driver fails.
"""

Rows = dict[str, list[str]]


def page(
    old: str,
    proofs: Mapping[str, tuple[int, str]],
    cells: Mapping[str, Mapping[str, str]],
    made: str,
    day: str,
) -> str:
    """The page with what a session has shown.

    Args:
        old: the page as it is; empty: there is none.
        proofs: by proof, its cases and how they ended.
        cells: by fault and phase, how the struck run ended.
        made: file, date and seed.
        day: the date, for each cell.
    """
    rows = _rows(old, _PROOFS)
    rows |= {proof: [str(count), ends, made] for proof, (count, ends) in proofs.items()}
    lines = [_HEAD, *_table(_PROOFS, rows)]
    columns = ("fault", *PHASES, "last made by")
    matrix = _rows(old, columns)
    for fault, ends in cells.items():
        kept = matrix.get(fault, ["-"] * len(PHASES))
        new = {phase: f"{end} ({day})" for phase, end in ends.items()}
        matrix[fault] = [new.get(phase, kept[at]) for at, phase in enumerate(PHASES)] + [made]
    if matrix:
        lines += ["", _MATRIX, *_table(columns, matrix)]
    return "\n".join(lines) + "\n"


def _table(columns: Iterable[str], rows: Rows) -> Iterator[str]:
    head = list(columns)
    yield _line(head)
    yield "|---" * len(head) + "|"
    for name, rest in sorted(rows.items()):
        yield _line([name, *rest])


def _line(fields: Iterable[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _rows(text: str, columns: tuple[str, ...]) -> Rows:
    """The rows of the table that has these columns."""
    lines = text.splitlines()
    if _line(columns) not in lines:
        return {}
    rows: Rows = {}
    for line in lines[lines.index(_line(columns)) + 2 :]:
        if not line.startswith("| "):
            break
        name, *rest = line[2:-2].split(" | ")
        rows[name] = rest
    return rows
