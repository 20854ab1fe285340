"""Find a data set's Parquet files and read their three columns, noting what is wrong with each."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chronos_ec2.workstation.dataset import Findings, printable

COLUMNS: Final = ("item_id", "timestamp", "target")

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


def read_rows(path: Path, findings: Findings) -> RowBlock | None:
    """Read a file's item_id, timestamp and target.

    Args:
        path: the file.
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
            if not _check_schema(path.name, file.schema_arrow, findings):
                return None
            table = file.read(columns=list(COLUMNS)).combine_chunks()
        if not table.num_rows:
            findings.add(
                "error", "empty", "the file has no rows; remove it or write it again", file=path.name
            )
            return None
        return _check_values(path.name, table, findings)
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


def _check_schema(name: str, schema: pa.Schema, findings: Findings) -> bool:
    good = True
    for column in COLUMNS:
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
            problem = _TYPE_PROBLEM[column](schema.field(column).type)
            if problem is None:
                continue
            findings.add("error", "wrong-type", problem, file=name, column=column)
        good = False
    extra = [printable(other) for other in schema.names if other not in COLUMNS]
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


def _target_problem(kind: pa.DataType) -> str | None:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return None
    if pa.types.is_nested(kind):
        return f"{kind} where one number a row is expected; unnest it: one row for each time"
    return f"{kind} where a number is expected; cast it to double"


_TYPE_PROBLEM: Final[dict[str, Callable[[pa.DataType], str | None]]] = {
    "item_id": _id_problem,
    "timestamp": _time_problem,
    "target": _target_problem,
}


def _check_values(name: str, table: pa.Table, findings: Findings) -> RowBlock:
    ids = _ids(table)
    usable = np.ones(table.num_rows, dtype=bool)
    for column, values in (("item_id", ids), ("timestamp", table["timestamp"])):
        null = values.is_null().to_numpy(zero_copy_only=False)
        if null.any():
            rows = [int(row) for row in np.flatnonzero(null)]
            text = "null; every row needs one: fill it or drop the row"
            findings.add_rows("error", "null", name, rows, lambda _, text=text: text, column=column)  # type: ignore[misc]
            usable &= ~null
    known = _check_target(name, table, findings)
    rows_kept = np.flatnonzero(usable)
    encoded = ids.filter(pa.array(usable)).dictionary_encode()
    times = table["timestamp"].cast(pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(0).to_numpy()
    return RowBlock(
        file=name,
        rows_in_file=table.num_rows,
        names=encoded.dictionary.to_pylist(),
        codes=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        times=times[rows_kept],
        rows=rows_kept,
        known=known[rows_kept],
    )


def _ids(table: pa.Table) -> pa.Array:
    ids = table["item_id"]
    if pa.types.is_dictionary(ids.type):
        # A dictionary may hold a null itself: only decoded do all nulls show.
        ids = ids.cast(ids.type.value_type)
    return ids.cast(pa.string()).combine_chunks()


def _check_target(name: str, table: pa.Table, findings: Findings) -> NDArray[np.bool_]:
    target = np.asarray(table["target"].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    missing = np.isnan(target)
    gone = np.flatnonzero(missing)
    if gone.size:
        rows = ", ".join(str(row) for row in gone[:_ROWS_NAMED]) + (
            ", ..." if gone.size > _ROWS_NAMED else ""
        )
        findings.add(
            "warning",
            "missing-target",
            f"{gone.size} of {len(target)} targets are missing (null or NaN; rows {rows}): "
            "nothing is learned from them",
            file=name,
            row=int(gone[0]),
            column="target",
        )
    text = "infinite, or too large for a 32-bit number; write NaN where nothing was measured"
    infinite = [int(row) for row in np.flatnonzero(np.abs(target) > _LARGEST_FLOAT32)]
    findings.add_rows("error", "infinite", name, infinite, lambda _: text, column="target")
    return ~missing
