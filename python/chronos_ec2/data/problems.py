"""Where a reader says what is wrong with the data.

The trainers refuse the first problem, by `Refusal`; the laptop's check collects them all, by an object of its
own with the same method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from chronos_ec2.errors import DataInvalid


class Problems(Protocol):
    """Takes what makes data unusable."""

    def error(
        self,
        kind: str,
        file: str,
        message: Callable[[int], str] | str,
        *,
        rows: Sequence[int] | None = None,
        column: str | None = None,
    ) -> None:
        """Take one problem.

        Args:
            kind: its short name: missing-column, wrong-type, null, infinite, ...
            file: the file's name.
            message: what is wrong and what to do; a function is asked for that of the n-th of `rows`.
            rows: the rows it is about, counted from 0; None when it is about no row.
            column: the column at fault.
        """


class Refusal:
    """Refuses the first problem."""

    def error(
        self,
        kind: str,
        file: str,
        message: Callable[[int], str] | str,
        *,
        rows: Sequence[int] | None = None,
        column: str | None = None,
    ) -> None:
        """Refuse.

        Raises:
            DataInvalid: always; names file, row, column and what to do.
        """
        text = message if isinstance(message, str) else message(0)
        raise DataInvalid(f"{place_of(file, None if rows is None else rows[0], column)}: {text}")


class Silence:
    """Passes over problems that another reading of the same files tells."""

    def error(self, kind: str, file: str, message: object, **where: object) -> None:
        """Do nothing."""


def place_of(file: str, row: int | None, column: str | None) -> str:
    """Where a problem is, in words: `a.parquet, row 3, column target`."""
    words = [file]
    if row is not None:
        words.append(f"row {row}")
    if column is not None:
        words.append(f"column {column}")
    return ", ".join(words)
