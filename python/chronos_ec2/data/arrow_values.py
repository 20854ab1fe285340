"""Columns of Parquet as numpy arrays: names, times, numbers; with the rows in which they cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chronos_ec2.data.problems import Problems

_NULL = "null; every row needs one: fill it or drop the row"
_INFINITE = "infinite, or too large for a 32-bit number; write NaN where nothing was measured"


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a file."""

    file: str
    batch: pa.RecordBatch
    rows: NDArray[np.int64]
    """Where each stands in the file, counted from 0."""
    problems: Problems

    def tell(
        self,
        kind: str,
        column: str,
        wrong: NDArray[np.bool_],
        message: Callable[[int], str] | str,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """Tell of the rows in which something is wrong, if there are any.

        Args:
            kind: the problem's short name.
            column: the column at fault.
            wrong: which of `rows`.
            message: what is wrong; a function is asked for that of the n-th wrong row.
            rows: the rows in the file; None is all of the part.
        """
        if wrong.any():
            found: Sequence[int] = (self.rows if rows is None else rows)[wrong].tolist()
            self.problems.error(kind, self.file, message, rows=found, column=column)

    def without(self, wrong: NDArray[np.bool_]) -> Part:
        """The part without some of its rows."""
        if not wrong.any():
            return self
        return Part(self.file, self.batch.filter(pa.array(~wrong)), self.rows[~wrong], self.problems)


def names_of(part: Part, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """A column of ids, as the ids that occur and which of them each row has: -1 where it is null."""
    given = part.batch[column]
    if pa.types.is_dictionary(given.type) and not pa.types.is_string(given.type.value_type):
        given = given.cast(given.type.value_type)
    if not pa.types.is_dictionary(given.type):
        given = given.cast(pa.string()).dictionary_encode()
    names: list[str | None] = given.dictionary.to_pylist()
    codes = given.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    # A dictionary may hold a null, or the same text twice: each row's name alone counts.
    if None in names or len(set(names)) < len(names):
        places: dict[str, int] = {}
        moved = [-1 if name is None else places.setdefault(name, len(places)) for name in names]
        codes = np.array([*moved, -1], dtype=np.int64)[codes]
        names = list(places)
    part.tell("null", column, codes < 0, _NULL)
    return [name for name in names if name is not None], codes


def times_of(
    part: Part, column: str, given: pa.Array, rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times as microseconds since 1970 in UTC, and where they are null.

    Args:
        part: where problems are told of.
        column: what the values are called.
        given: the values.
        rows: the row of the file that each value belongs to; None is the part's own.
    """
    null = _nulls(given)
    part.tell("null", column, null, _NULL, rows)
    if pa.types.is_dictionary(given.type):
        given = given.cast(given.type.value_type)
    # Only nanoseconds lose digits, which no two values of a series differ in.
    moments = given.cast(pa.timestamp("us", getattr(given.type, "tz", None)), safe=False).cast(pa.int64())
    return np.asarray(moments.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64), null


def numbers_of(
    part: Part, column: str, given: pa.Array, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Numbers in 32 bits, NaN where they are null.

    Args:
        part: where problems are told of.
        column: what the values are called.
        given: the values.
        rows: the row of the file that each value belongs to; None is the part's own.
    """
    if pa.types.is_dictionary(given.type):
        given = given.cast(given.type.value_type)
    if pa.types.is_boolean(given.type):
        given = given.cast(pa.uint8())
    if not pa.types.is_floating(given.type) or given.null_count:
        given = given.cast(pa.float64(), safe=False)
    with np.errstate(over="ignore"):
        values = given.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    part.tell("infinite", column, np.isinf(values), _INFINITE, rows)
    return np.asarray(values, dtype=np.float32)


def lengths_of(given: pa.Array) -> NDArray[np.int64]:
    """The lengths of lists, -1 for a null."""
    lengths = pc.list_value_length(given).fill_null(-1)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _nulls(given: pa.Array) -> NDArray[np.bool_]:
    if not given.null_count and not pa.types.is_dictionary(given.type):
        return np.zeros(len(given), dtype=bool)
    return np.asarray(given.is_null().to_numpy(zero_copy_only=False), dtype=bool)
