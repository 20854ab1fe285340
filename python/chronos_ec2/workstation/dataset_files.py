"""Find a data set's Parquet files, and tell which of them can be read at all."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.layout import read_layout
from chronos_ec2.data.reader import damage
from chronos_ec2.workstation.dataset import Findings, printable

_MAGIC: Final = b"PAR1"
_ENCRYPTED: Final = b"PARE"
_SMALLEST: Final = 12
_NAMES_SHOWN: Final = 8
_NOT_IN_KEYS: Final = ("Cc", "Cs")


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


def is_readable(path: Path, columns: Columns, findings: Findings) -> bool:
    """Whether a file is Parquet with rows, and has the columns that are wanted.

    Args:
        path: the file.
        columns: the columns that training will read.
        findings: what is wrong goes here.
    """
    problem = _not_parquet(path)
    if problem is not None:
        findings.add("error", "not-parquet", problem, file=path.name)
        return False
    try:
        facts = pq.read_metadata(path)
        schema = facts.schema.to_arrow_schema()
        names = schema.names
    # A name that is no UTF-8 is found by Python, when it looks at it.
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        findings.error("damaged", path.name, damage(error))
        return False
    layout = read_layout(path.name, schema, columns, findings)
    used = {columns.item_id, columns.timestamp, *columns.variates, *(layout.names if layout else ())}
    extra = [printable(name) for name in names if name not in used]
    if extra:
        text = f"not used in training: {', '.join(extra[:_NAMES_SHOWN])}"
        findings.add("warning", "extra-column", text, file=path.name)
    if layout is not None and not facts.num_rows:
        findings.error("empty", path.name, "the file has no rows; remove it or write it again")
    return layout is not None and facts.num_rows > 0


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
