"""Read the rows of one Parquet file, in whichever of the three formats it is.

    long      one row a value: item_id, timestamp, target
    nested    one row a series: item_id, timestamp (a list, or the first and `freq`), target (a list)
    GluonTS   one row a series: start, target (a list, or a list of lists), freq, optionally item_id,
              feat_dynamic_real (known covariates) and past_feat_dynamic_real (lists of lists)

The format is told from the columns' types. `freq` may stand in a column or in the schema's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import DataInvalid

Format = Literal["long", "nested", "gluonts"]

_ROWS_AT_ONCE: Final = 1 << 18
_SERIES_AT_ONCE: Final = 1 << 10
_FREQ: Final = re.compile(r"(\d*)([A-Za-z]+)(?:-[A-Z]{3})?")
_MICROSECONDS: Final = {
    "us": 1,
    "U": 1,
    "ms": 1_000,
    "L": 1_000,
    "s": 1_000_000,
    "S": 1_000_000,
    "min": 60_000_000,
    "T": 60_000_000,
    "h": 3_600_000_000,
    "H": 3_600_000_000,
    "D": 86_400_000_000,
    "d": 86_400_000_000,
    "W": 7 * 86_400_000_000,
}
_MONTHS: Final = {"M": 1, "ME": 1, "MS": 1, "Q": 3, "QE": 3, "QS": 3, "Y": 12, "YE": 12, "YS": 12, "A": 12}
_GLUONTS_COVARIATES: Final = {"known": "feat_dynamic_real", "past": "past_feat_dynamic_real"}


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file, long."""

    ids: list[str]
    """The series that occur."""
    codes: NDArray[np.int64]
    """Which of `ids` each row belongs to, shape [rows]."""
    times: NDArray[np.int64]
    """Microseconds since 1970, UTC, shape [rows]."""
    values: NDArray[np.float32]
    """NaN where one is missing, shape [variates, rows]."""


def format_of(name: str, schema: pa.Schema, columns: Columns) -> Format:
    """Tell a file's format.

    Raises:
        DataInvalid: a column is missing; names it.
    """
    names = set(schema.names)
    if "start" in names and columns.timestamp not in names:
        if "target" not in names:
            raise DataInvalid(f"{name}: column target is missing")
        return "gluonts"
    for column in (columns.item_id, columns.timestamp, *columns.variates):
        if column not in names:
            raise DataInvalid(
                f"{name}: column {column} is missing (there are: {', '.join(sorted(names)[:8])})"
            )
    return "nested" if is_list(schema.field(columns.targets[0]).type) else "long"


def read_lengths(path: Path, columns: Columns) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """The rows that each series has in each part of a file, without their values where the format allows.

    Raises:
        DataInvalid: the file cannot be read, or an id is missing.
    """
    with _opened(path, columns) as file:
        if format_of(path.name, file.schema_arrow, columns) == "long":
            first = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[columns.item_id]):
                ids, codes = _encoded(path.name, columns.item_id, batch.column(0), first)
                first += len(codes)
                yield ids, np.bincount(codes, minlength=len(ids))
            return
    for block in read_blocks(path, columns):
        yield block.ids, np.bincount(block.codes, minlength=len(block.ids))


def read_blocks(path: Path, columns: Columns) -> Iterator[Block]:
    """The rows of a file, part by part.

    Raises:
        DataInvalid: it cannot be read, a column is missing or of a wrong type, an id or a time is null, or a
            value is infinite or too large for 32 bits; names file, row and column.
    """
    with _opened(path, columns) as file:
        kind = format_of(path.name, file.schema_arrow, columns)
        first = 0
        for batch in file.iter_batches(
            _ROWS_AT_ONCE if kind == "long" else _SERIES_AT_ONCE,
            columns=_wanted(kind, file.schema_arrow, columns),
        ):
            try:
                if kind == "long":
                    yield _long(path.name, batch, columns, first)
                else:
                    yield _nested(path.name, batch, columns, first, file.schema_arrow)
            except pa.ArrowException as error:
                raise _unreadable(path.name, error) from error
            first += batch.num_rows


class _opened:
    """A Parquet file whose errors are ours."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns

    def __enter__(self) -> pq.ParquetFile:
        try:
            names = pq.read_schema(self._path).names
            coded = [self._columns.item_id] if self._columns.item_id in names else None
            self._file = pq.ParquetFile(self._path, read_dictionary=coded)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self._path.name, error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, pa.ArrowException | OSError):
            raise _unreadable(self._path.name, error) from error


def _unreadable(name: str, error: BaseException) -> DataInvalid:
    return DataInvalid(f"{name}: cannot be read ({' '.join(str(error).split())[:200]}); write it again")


def _wanted(kind: Format, schema: pa.Schema, columns: Columns) -> list[str]:
    if kind == "gluonts":
        names = [columns.item_id, "start", "freq", "target", *_GLUONTS_COVARIATES.values()]
    else:
        names = [
            columns.item_id,
            columns.timestamp,
            *columns.variates,
            *(["freq"] if kind == "nested" else []),
        ]
    return [name for name in names if name in schema.names]


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


# -- columns to numbers -----------------------------------------------------------------------------------


def _encoded(name: str, column: str, given: pa.Array, first: int) -> tuple[list[str], NDArray[np.int64]]:
    if pa.types.is_dictionary(given.type) and not pa.types.is_string(given.type.value_type):
        given = given.cast(given.type.value_type)
    if given.null_count:
        row = first + pc.index(given.is_null(), value=True).as_py()
        raise DataInvalid(f"{name}, row {row}: {column} is null; every row needs one")
    if not pa.types.is_dictionary(given.type):
        if is_list(given.type) or pa.types.is_floating(given.type):
            raise DataInvalid(f"{name}: {column} is {given.type} where text or whole numbers are expected")
        given = given.cast(pa.string()).dictionary_encode()
    ids = given.dictionary.to_pylist()
    if None in ids:
        raise DataInvalid(f"{name}: {column} is null in some row; every row needs one")
    return [str(item) for item in ids], given.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _times(name: str, column: str, given: pa.Array, first: int) -> NDArray[np.int64]:
    if not (pa.types.is_timestamp(given.type) or pa.types.is_date(given.type)):
        raise DataInvalid(
            f"{name}: {column} is {given.type} where a timestamp is expected; parse it before writing"
        )
    if given.null_count:
        row = first + pc.index(given.is_null(), value=True).as_py()
        raise DataInvalid(f"{name}, row {row}: {column} is null; every row needs one")
    moments = given.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return np.asarray(moments.to_numpy(zero_copy_only=False), dtype=np.int64)


def _numbers(name: str, column: str, given: pa.Array, first: int) -> NDArray[np.float32]:
    kind = given.type
    if pa.types.is_dictionary(kind):
        given = given.cast(kind.value_type)
        kind = given.type
    if pa.types.is_boolean(kind):
        given = given.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataInvalid(f"{name}: {column} is {kind} where a number is expected; cast it to double")
    if pa.types.is_float32(kind) and not given.null_count:
        values = given.to_numpy(zero_copy_only=True)
    else:
        with np.errstate(over="ignore"):
            values = given.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float32)
    infinite = np.isinf(values)
    if infinite.any():
        row = first + int(infinite.argmax())
        raise DataInvalid(
            f"{name}, row {row}: {column} is infinite, or too large for 32 bits; write NaN "
            "where nothing was measured"
        )
    return np.asarray(values, dtype=np.float32)


def _long(name: str, batch: pa.RecordBatch, columns: Columns, first: int) -> Block:
    ids, codes = _encoded(name, columns.item_id, batch[columns.item_id], first)
    values = np.empty((len(columns.variates), batch.num_rows), dtype=np.float32)
    for place, column in enumerate(columns.variates):
        values[place] = _numbers(name, column, batch[column], first)
    return Block(ids, codes, _times(name, columns.timestamp, batch[columns.timestamp], first), values)


# -- one row a series -------------------------------------------------------------------------------------


def _nested(name: str, batch: pa.RecordBatch, columns: Columns, first: int, schema: pa.Schema) -> Block:
    gluonts = columns.timestamp not in batch.schema.names
    if gluonts:
        lists = _gluonts_lists(name, batch, columns, first)
    else:
        lists = [_list(name, column, batch[column], first) for column in columns.variates]
    lengths = lists[0][1]
    for column, (_, others) in zip(columns.variates, lists, strict=True):
        wrong = np.flatnonzero(others != lengths)
        if wrong.size:
            raise DataInvalid(
                f"{name}, row {first + wrong[0]}: {column} has {others[wrong[0]]} values, "
                f"{columns.variates[0]} has {lengths[wrong[0]]}"
            )
    if columns.item_id in batch.schema.names:
        ids, codes = _encoded(name, columns.item_id, batch[columns.item_id], first)
    else:
        stem = name.removesuffix(".parquet")
        ids, codes = [f"{stem}-{first + row}" for row in range(batch.num_rows)], np.arange(batch.num_rows)
    when = "start" if gluonts else columns.timestamp
    times = _list_times(name, when, batch, lengths, first, schema)
    return Block(ids, np.repeat(codes, lengths), times, np.stack([values for values, _ in lists]))


_Lists = tuple[NDArray[np.float32], NDArray[np.int64]]


def _list(name: str, column: str, given: pa.Array, first: int) -> _Lists:
    """A column of lists as its values behind each other, and how many each row has."""
    if not is_list(given.type):
        raise DataInvalid(
            f"{name}: {column} is {given.type} where a list of numbers is expected, as in the target"
        )
    if given.null_count:
        row = first + pc.index(given.is_null(), value=True).as_py()
        raise DataInvalid(f"{name}, row {row}: {column} is null; every row needs a list")
    lengths = pc.list_value_length(given).to_numpy(zero_copy_only=False).astype(np.int64)
    return _numbers(name, column, given.flatten(), 0), lengths


def _gluonts_lists(name: str, batch: pa.RecordBatch, columns: Columns, first: int) -> list[_Lists]:
    found = _parts(name, "target", batch, len(columns.targets), first)
    for role, wanted in (("past", columns.past_covariates), ("known", columns.known_covariates)):
        if wanted:
            column = _GLUONTS_COVARIATES[role]
            if column not in batch.schema.names:
                raise DataInvalid(
                    f"{name}: column {column} is missing; the settings name {len(wanted)} covariates"
                )
            found += _parts(name, column, batch, len(wanted), first)
    return found


def _parts(name: str, column: str, batch: pa.RecordBatch, count: int, first: int) -> list[_Lists]:
    given = batch[column]
    if not is_list(given.type) or not is_list(given.type.value_type):
        if count > 1:
            raise DataInvalid(f"{name}: {column} has one variate, the settings name {count}")
        return [_list(name, column, given, first)]
    inner = pc.list_value_length(given).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(inner != count)
    if wrong.size:
        raise DataInvalid(
            f"{name}, row {first + wrong[0]}: {column} has {inner[wrong[0]]} variates, "
            f"the settings name {count}"
        )
    flat = given.flatten()
    places = np.arange(len(flat)).reshape(-1, count)
    return [_list(name, column, flat.take(pa.array(places[:, place])), first) for place in range(count)]


def _list_times(
    name: str, column: str, batch: pa.RecordBatch, lengths: NDArray[np.int64], first: int, schema: pa.Schema
) -> NDArray[np.int64]:
    given = batch[column]
    if is_list(given.type):
        counts = pc.list_value_length(given).fill_null(-1).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(counts != lengths)
        if wrong.size:
            raise DataInvalid(f"{name}, row {first + wrong[0]}: {column} and the values differ in length")
        return _times(name, column, given.flatten(), 0)
    starts = _times(name, column, given, first)
    freqs = _freqs(name, column, batch, schema)
    parts = [
        _spread(name, first + row, starts[row], freqs[row], int(lengths[row])) for row in range(len(starts))
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _freqs(name: str, column: str, batch: pa.RecordBatch, schema: pa.Schema) -> list[str | None]:
    if "freq" in batch.schema.names:
        found: list[str | None] = batch["freq"].cast(pa.string()).to_pylist()
        return found
    told = (schema.metadata or {}).get(b"freq")
    if told is None:
        raise DataInvalid(
            f"{name}: {column} says when each series starts, and nothing says how far its values are "
            "apart: add a column freq (h, D, 15min, …)"
        )
    return [told.decode()] * batch.num_rows


def _spread(name: str, row: int, start: int, freq: str | None, length: int) -> NDArray[np.int64]:
    match = _FREQ.fullmatch(freq or "")
    count = int(match[1] or 1) if match else 0
    unit = match[2] if match else ""
    if count and unit in _MICROSECONDS:
        return np.asarray(
            start + np.arange(length, dtype=np.int64) * (count * _MICROSECONDS[unit]), dtype=np.int64
        )
    if count and unit in _MONTHS:
        first = np.int64(start).astype("datetime64[us]")
        month = first.astype("datetime64[M]")
        steps = month + np.arange(length) * (count * _MONTHS[unit])
        return np.asarray((steps.astype("datetime64[us]") + (first - month)).astype(np.int64), dtype=np.int64)
    raise DataInvalid(
        f"{name}, row {row}: freq {freq!r} is not known; h, D, W, M, Q, Y, min and s are, with a number"
    )
