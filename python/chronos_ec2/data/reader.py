"""Read the values of a Parquet file, part by part, whichever of the formats it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.data.arrow_values import Part
from chronos_ec2.data.blocks import Block, block_of, lengths_in
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.layout import Layout, read_layout
from chronos_ec2.data.problems import Problems

_VALUES_AT_ONCE: Final = 1 << 19
_REASON_SHOWN: Final = 200
_Item = TypeVar("_Item")


class ParquetSource:
    """One Parquet file.

    Args:
        path: the file.
        columns: the columns to read.
        problems: takes what is wrong; what it lets pass is left out.
    """

    def __init__(self, path: Path, columns: Columns, problems: Problems) -> None:
        self._path, self._columns, self._problems = path, columns, problems

    def lengths(self) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
        """The series in each part of the file, and how many values they have there at most.

        Reads the ids alone in the long format, elsewhere one column of lists beside them.
        """
        return self._guarded(lengths_in(part, layout) for part, layout in self._parts(whole=False))

    def blocks(self) -> Iterator[Block]:
        """The values, part by part."""
        parts = self._parts(whole=True)
        return self._guarded(block_of(part, layout, self._columns) for part, layout in parts)

    def _guarded(self, items: Iterator[_Item]) -> Iterator[_Item]:
        try:
            yield from items
        # A text may be no UTF-8, whatever the schema says.
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            self._problems.error("damaged", self._path.name, damage(error))

    def _parts(self, *, whole: bool) -> Iterator[tuple[Part, Layout]]:
        name, first = self._path.name, 0
        facts = pq.read_metadata(self._path)
        # Ids that stay encoded are ten times faster to count.
        encoded = [column for column in facts.schema.names if column == self._columns.item_id]
        with pq.ParquetFile(self._path, metadata=facts, read_dictionary=encoded) as file:
            layout = read_layout(name, file.schema_arrow, self._columns, self._problems)
            if layout is None:
                return
            wanted = layout.names if whole else layout.names_for_lengths
            for batch in file.iter_batches(_rows_at_once(facts, layout), columns=wanted):
                yield Part(name, batch, np.arange(first, first + batch.num_rows), self._problems), layout
                first += batch.num_rows


def damage(error: Exception) -> str:
    """What is said of a file that Arrow cannot read."""
    reason = " ".join(str(error).split())[:_REASON_SHOWN]
    return f"cannot be read ({reason if reason.isprintable() else ascii(reason)}); write it again"


def _rows_at_once(facts: pq.FileMetaData, layout: Layout) -> int:
    """As many rows as make a part of a bearable size, however long their lists are."""
    if layout.format == "long" or not facts.num_rows:
        return _VALUES_AT_ONCE
    column, values = layout.values[0][0], 0
    for number in range(facts.num_row_groups):
        group = facts.row_group(number)
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema.split(".")[0] == column:
                values += chunk.num_values
    return max(1, _VALUES_AT_ONCE * int(facts.num_rows) // max(values, 1))
