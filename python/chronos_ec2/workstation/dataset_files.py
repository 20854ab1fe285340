"""Find a data set's Parquet files and read the columns of training, noting what is wrong with each."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.formats import is_list, read_blocks
from chronos_ec2.errors import DataInvalid
from chronos_ec2.workstation.dataset import Findings, printable

_MAGIC: Final = b"PAR1"
_ENCRYPTED: Final = b"PARE"
_SMALLEST: Final = 12
_ROWS_NAMED: Final = 5
_NOT_IN_KEYS: Final = ("Cc", "Cs")
_LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class RowBlock:
    """The rows of one file that have an id and a time."""

    file: str
    rows_in_file: int
    names: list[str]
    """The series that occur in the file."""
    codes: NDArray[np.int64]
    """Which of `names` each row belongs to."""
    times: NDArray[np.int64]
    """Microseconds since 1970, UTC."""
    rows: NDArray[np.int64]
    """Where each row stands in the file, counted from 0."""
    known: NDArray[np.bool_]
    """Whether the row has a target."""


def find_files(folder: Path, findings: Findings) -> list[Path]:
    """List the Parquet files of a folder, sorted by name.

    Args:
        folder: where to look; folders below are not entered.
        findings: what is wrong goes here.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        findings.add("error", "no-folder", f"{folder} cannot be listed ({error.strerror}); name a folder")
        return []
    files = [path for path in entries if path.name.endswith(".parquet") and _usable_path(path, findings)]
    others = [path.name for path in entries if not path.name.endswith(".parquet")]
    for name in others:
        findings.add("warning", "left-out", "left out: only files named *.parquet are read", file=name)
    if not any(path.name.endswith(".parquet") for path in entries):
        seen = f"; it has {', '.join(printable(name) for name in others[:3])}" if others else "; it is empty"
        findings.add("error", "no-files", f"no .parquet file in {folder}{seen}")
    return files


def read_rows(path: Path, columns: Columns, findings: Findings) -> RowBlock | None:
    """Read the columns of a file that training reads.

    Args:
        path: the file.
        columns: which they are.
        findings: what is wrong goes here.

    Returns:
        Its rows; None when it has none that could be looked at.
    """
    problem = _not_parquet(path)
    if problem is not None:
        findings.add("error", "not-parquet", problem, file=path.name)
        return None
    try:
        with pq.ParquetFile(path) as file:
            if _a_row_a_series(file.schema_arrow, columns):
                return _check_series_rows(path, columns, findings)
            if not _check_schema(path.name, file.schema_arrow, columns, findings):
                return None
            table = file.read(columns=_names(columns)).combine_chunks()
        if not table.num_rows:
            findings.add(
                "error", "empty", "the file has no rows; remove it or write it again", file=path.name
            )
            return None
        return _check_values(path.name, table, columns, findings)
    except (pa.ArrowException, OSError) as error:
        reason = printable(" ".join(str(error).split()))[:200]
        findings.add("error", "damaged", f"cannot be read ({reason}); write it again", file=path.name)
        return None


def _usable_path(path: Path, findings: Findings) -> bool:
    name = path.name
    bad_name = any(unicodedata.category(character) in _NOT_IN_KEYS for character in name)
    if bad_name:
        problem = "the name has control characters or broken UTF-8, which no S3 key may hold; rename the file"
    elif path.is_symlink() and not path.exists():
        problem = "a link that leads nowhere; remove it"
    elif path.is_dir():
        problem = "a folder, not a file; name it with --data, or merge its parts into one file"
    elif not path.is_file():
        problem = "not a regular file; remove it"
    else:
        return True
    findings.add("error", "bad-name" if bad_name else "not-a-file", problem, file=name)
    return False


def _not_parquet(path: Path) -> str | None:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(len(_MAGIC))
            stream.seek(max(size - len(_MAGIC), 0))
            tail = stream.read(len(_MAGIC))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size == 0:
        return "the file is empty (0 bytes); write it again"
    if _ENCRYPTED in (head, tail):
        return "encrypted Parquet; write it without encryption"
    if head != _MAGIC:
        return f"not Parquet: it begins with {head!r}; convert it, a new name is not enough"
    if tail != _MAGIC or size < _SMALLEST:
        return "cut off: its end is missing; copy or write it again"
    return None


def _names(columns: Columns) -> list[str]:
    return [columns.item_id, columns.timestamp, *columns.variates]


def _a_row_a_series(schema: pa.Schema, columns: Columns) -> bool:
    """Whether it is one of the formats with lists."""
    if "start" in schema.names and columns.timestamp not in schema.names:
        return True
    first = columns.targets[0]
    return schema.names.count(first) == 1 and is_list(schema.field(first).type)


def _check_series_rows(path: Path, columns: Columns, findings: Findings) -> RowBlock | None:
    """Read a file with a row for each series; its first fault is told, by the loader's own words."""
    try:
        blocks = list(read_blocks(path, columns))
    except DataInvalid as error:
        problem = str(error).removeprefix(path.name).lstrip(":, ")
        findings.add("error", "series-row", printable(problem), file=path.name)
        return None
    if not sum(len(block.codes) for block in blocks):
        findings.add("error", "empty", "the file has no rows; remove it or write it again", file=path.name)
        return None
    places: dict[str, int] = {}
    for block in blocks:
        for name in block.ids:
            places.setdefault(name, len(places))
    codes = [np.array([places[name] for name in block.ids], dtype=np.int64)[block.codes] for block in blocks]
    values = np.concatenate([block.values[: len(columns.targets)] for block in blocks], axis=1)
    _count_missing(path.name, columns.targets[0], np.isnan(values[0]), findings)
    return RowBlock(
        file=path.name,
        rows_in_file=values.shape[1],
        names=list(places),
        codes=np.concatenate(codes),
        times=np.concatenate([block.times for block in blocks]),
        rows=np.arange(values.shape[1]),
        known=~np.isnan(values).all(axis=0),
    )


def _check_schema(name: str, schema: pa.Schema, columns: Columns, findings: Findings) -> bool:
    good = True
    problem_of = {columns.item_id: _id_problem, columns.timestamp: _time_problem}
    for column in _names(columns):
        places = schema.get_all_field_indices(column)
        if not places:
            have = ", ".join(printable(other) for other in schema.names[:8])
            message = f"the column is missing; rename one of: {have}" if have else "the file has no columns"
            findings.add("error", "missing-column", message, file=name, column=column)
        elif len(places) > 1:
            findings.add(
                "error", "wrong-type", "the column is there twice; drop one", file=name, column=column
            )
        else:
            kind = schema.field(column).type
            problem = problem_of.get(column, _number_problem)(kind)
            if column in columns.targets and pa.types.is_boolean(kind):
                problem = f"{kind} where a number is expected; cast it to double"
            if problem is None:
                continue
            findings.add("error", "wrong-type", problem, file=name, column=column)
        good = False
    extra = [printable(other) for other in schema.names if other not in _names(columns)]
    if extra:
        findings.add("warning", "extra-column", f"not used in training: {', '.join(extra[:8])}", file=name)
    return good


def _id_problem(kind: pa.DataType) -> str | None:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if pa.types.is_integer(value) or any(is_text(value) for is_text in texts):
        return None
    return f"{kind} where text or whole numbers are expected; cast it to string"


def _time_problem(kind: pa.DataType) -> str | None:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return None
    return f"{kind} where a timestamp or date is expected; parse it (pandas.to_datetime) before writing"


def _number_problem(kind: pa.DataType) -> str | None:
    if (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        return None
    if pa.types.is_nested(kind):
        return f"{kind} where one number a row is expected; unnest it: one row for each time"
    return f"{kind} where a number is expected; cast it to double"


def _check_values(name: str, table: pa.Table, columns: Columns, findings: Findings) -> RowBlock:
    ids = _ids(table[columns.item_id])
    moments = table[columns.timestamp]
    usable = np.ones(table.num_rows, dtype=bool)
    for column, values in ((columns.item_id, ids), (columns.timestamp, moments)):
        null = values.is_null().to_numpy(zero_copy_only=False)
        if null.any():
            rows = [int(row) for row in np.flatnonzero(null)]
            text = "null; every row needs one: fill it or drop the row"
            findings.add_rows("error", "null", name, rows, lambda _, text=text: text, column=column)  # type: ignore[misc]
            usable &= ~null
    known = np.zeros(table.num_rows, dtype=bool)
    for column in columns.variates:
        seen = _check_numbers(name, column, table[column], findings, tell_missing=column in columns.targets)
        known |= seen if column in columns.targets else False
    rows_kept = np.flatnonzero(usable)
    encoded = ids.filter(pa.array(usable)).dictionary_encode()
    times = moments.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(0).to_numpy()
    return RowBlock(
        file=name,
        rows_in_file=table.num_rows,
        names=encoded.dictionary.to_pylist(),
        codes=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        times=times[rows_kept],
        rows=rows_kept,
        known=known[rows_kept],
    )


def _ids(ids: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(ids.type):
        # A dictionary may hold a null itself: only decoded do all nulls show.
        ids = ids.cast(ids.type.value_type)
    return ids.cast(pa.string()).combine_chunks()


def _check_numbers(
    name: str, column: str, given: pa.ChunkedArray, findings: Findings, *, tell_missing: bool
) -> NDArray[np.bool_]:
    if pa.types.is_boolean(given.type):
        given = given.cast(pa.uint8())
    values = np.asarray(given.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    missing = np.isnan(values)
    if tell_missing:
        _count_missing(name, column, missing, findings)
    text = "infinite, or too large for a 32-bit number; write NaN where nothing was measured"
    infinite = [int(row) for row in np.flatnonzero(np.abs(values) > _LARGEST_FLOAT32)]
    findings.add_rows("error", "infinite", name, infinite, lambda _: text, column=column)
    return ~missing


def _count_missing(name: str, column: str, missing: NDArray[np.bool_], findings: Findings) -> None:
    gone = np.flatnonzero(missing)
    if gone.size:
        rows = ", ".join(str(row) for row in gone[:_ROWS_NAMED]) + (
            ", ..." if gone.size > _ROWS_NAMED else ""
        )
        findings.add(
            "warning",
            "missing-target",
            f"{gone.size} of {len(missing)} targets are missing (null or NaN; rows {rows}): "
            "nothing is learned from them",
            file=name,
            row=int(gone[0]),
            column=column,
        )
