"""Tell what a Parquet file has where: its format, and whether its columns are of types that can be read.

    long      one row a value: item_id, timestamp, target
    nested    one row a series: item_id, timestamp (a list, or one and `freq` beside it), target (a list)
    GluonTS   one row a series: start, target (a list, or a list of lists), freq, and where there are any
              item_id, feat_dynamic_real (known covariates) and past_feat_dynamic_real (lists of lists)

The format is told from the columns and their types. `freq` may be a column or stand in the schema's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.problems import Problems

Format = Literal["long", "nested", "gluonts"]

START: Final = "start"
FREQUENCY: Final = "freq"
TARGET: Final = "target"
PAST: Final = "past_feat_dynamic_real"
KNOWN: Final = "feat_dynamic_real"

_NAMES_SHOWN: Final = 8
_Check = Callable[[pa.DataType], str | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file has where."""

    format: Format
    item_id: str | None
    """None when the file names no series: each is called by its file and row then."""
    time: str
    values: tuple[tuple[str, int], ...]
    """The columns with numbers, and how many variates each has."""
    has_frequency: bool
    """Whether `freq` is a column."""
    stored_frequency: str | None
    """`freq` of the schema's metadata."""

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        beside = [FREQUENCY] if self.has_frequency else []
        return [
            *([self.item_id] if self.item_id else []),
            self.time,
            *beside,
            *(name for name, _ in self.values),
        ]

    @property
    def names_for_lengths(self) -> list[str]:
        """The columns that tell which series there are and how long they are."""
        ids = [self.item_id] if self.item_id else []
        return ids if self.format == "long" else [*ids, self.values[0][0]]


def read_layout(file: str, schema: pa.Schema, columns: Columns, problems: Problems) -> Layout | None:
    """Tell what a file has where.

    Args:
        file: its name.
        schema: its schema.
        columns: the columns that are wanted.
        problems: takes missing columns and wrong types.

    Returns:
        The layout; None when the file cannot be read.
    """
    layout = _layout(schema, columns)
    checks = [(layout.item_id, _id_problem)] if layout.item_id else []
    listed = layout.format != "long"
    good = True
    for name, check in (*checks, (layout.time, _times_problem if listed else _time_problem)):
        good &= _check(file, name, schema, check, problems)
    for position, (name, count) in enumerate(layout.values):
        is_target = name == TARGET if layout.format == "gluonts" else position < len(columns.targets)
        good &= _check(file, name, schema, _Numbers(layout.format, is_target, count), problems)
    if not good:
        return None
    if listed and not is_list(schema.field(layout.time).type) and not _tells_frequency(layout):
        problems.error("no-frequency", file, _NO_FREQUENCY, column=layout.time)
        return None
    return layout


_NO_FREQUENCY: Final = (
    "says when a series starts, and nothing says how far apart its values are; add a text column freq "
    "(h, D, 15min, ...), or freq to the schema's metadata"
)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of what a dictionary-encoded column holds; any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _layout(schema: pa.Schema, columns: Columns) -> Layout:
    names = set(schema.names)
    stored = (schema.metadata or {}).get(FREQUENCY.encode())
    frequency = None if stored is None else stored.decode(errors="replace")
    if START in names and columns.timestamp not in names:
        parts = (
            (TARGET, columns.targets),
            (PAST, columns.past_covariates),
            (KNOWN, columns.known_covariates),
        )
        values = tuple((name, len(wanted)) for name, wanted in parts if wanted)
        item_id = columns.item_id if columns.item_id in names else None
        return Layout("gluonts", item_id, START, values, FREQUENCY in names, frequency)
    values = tuple((name, 1) for name in columns.variates)
    found = [
        schema.field(name).type for name in columns.targets if len(schema.get_all_field_indices(name)) == 1
    ]
    nested = any(is_list(kind) for kind in found)
    kind: Format = "nested" if nested else "long"
    return Layout(kind, columns.item_id, columns.timestamp, values, nested and FREQUENCY in names, frequency)


def _tells_frequency(layout: Layout) -> bool:
    return layout.has_frequency or layout.stored_frequency is not None


def _check(file: str, name: str, schema: pa.Schema, check: _Check, problems: Problems) -> bool:
    places = schema.get_all_field_indices(name)
    if not places:
        have = ", ".join(_shown(other) for other in schema.names[:_NAMES_SHOWN])
        message = f"the column is missing; rename one of: {have}" if have else "the file has no columns"
        problems.error("missing-column", file, message, column=name)
        return False
    problem = "the column is there twice; drop one" if len(places) > 1 else check(schema.field(name).type)
    if problem is not None:
        problems.error("wrong-type", file, problem, column=name)
    return problem is None


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)


# -- types --------------------------------------------------------------------------------------------


def _id_problem(kind: pa.DataType) -> str | None:
    value = plain(kind)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if pa.types.is_integer(value) or any(is_text(value) for is_text in texts):
        return None
    return f"{kind} where text or whole numbers are expected; cast it to string"


def _time_problem(kind: pa.DataType) -> str | None:
    value = plain(kind)
    if pa.types.is_timestamp(value) or pa.types.is_date(value):
        return None
    how = "pandas.to_datetime with the unit that they count, as unit='s'"
    how = how if pa.types.is_integer(value) else "pandas.to_datetime"
    return f"{kind} where a timestamp or date is expected; parse it ({how}) before writing"


def _times_problem(kind: pa.DataType) -> str | None:
    return _time_problem(kind.value_type if is_list(kind) else kind)


class _Numbers:
    """Whether a type holds numbers, as deep in lists as the format has them."""

    def __init__(self, kind: Format, is_target: bool, variates: int) -> None:
        self._kind, self._is_target, self._variates = kind, is_target, variates

    def __call__(self, kind: pa.DataType) -> str | None:
        depth, inner = 0, kind
        while is_list(inner):
            depth, inner = depth + 1, inner.value_type
        if self._kind == "long" and depth:
            return f"{kind} where one number a row is expected, as in the other columns"
        if self._kind == "nested" and depth != 1:
            return f"{kind} where a list of numbers is expected, as in the other columns"
        if self._kind == "gluonts" and depth not in ((1, 2) if self._variates == 1 else (2,)):
            return f"{kind} where {self._variates} lists of numbers a row are expected: one a column"
        if not self._holds_numbers(plain(inner)):
            return f"{kind} where a number is expected; cast it to double"
        return None

    def _holds_numbers(self, kind: pa.DataType) -> bool:
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        return any(is_number(kind) for is_number in numbers) or (
            pa.types.is_boolean(kind) and not self._is_target
        )
