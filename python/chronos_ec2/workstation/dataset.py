"""Check a folder of Parquet files before it is uploaded, by the reader that the trainers use.

Everything that is wrong is found in one go, each thing with its file and row (counted from 0), and what to
do about it. Errors stop an upload: no file, not Parquet, a missing column, a wrong type, a null id or time,
an infinite value, lists of different lengths, a time that a series has twice, no series long enough. Warnings
do not: missing values, gaps, rows out of order, short series, columns and files that no trainer reads.

    report = check_dataset(Path("my-data"), min_length=640)
    report.raise_if_invalid()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.problems import place_of
from chronos_ec2.errors import DataInvalid
from chronos_ec2.workstation.content import Digests

Severity = Literal["error", "warning"]

DEFAULT_MIN_LENGTH: Final = 640
"""A context of 512, one window of 64 to learn from and one held out."""
SHOWN_PER_KIND: Final = 5
"""How many findings of one kind are spelled out for a file; the rest is counted."""
FOLDER: Final = "."
"""The file that a finding about the whole folder names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    severity: Severity
    kind: str
    """A short name: missing-column, wrong-type, duplicate, gap, ..."""
    file: str
    row: int | None
    """Counted from 0 in that file; None when it is not about one row."""
    column: str | None
    message: str
    """What is wrong and what to do."""

    def __str__(self) -> str:
        file = "the folder" if self.file == FOLDER else printable(self.file)
        column = None if self.column is None else printable(self.column)
        return f"{self.severity}: {place_of(file, self.row, column)}: {self.message}"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that could be read, whatever was found in it."""

    name: str
    bytes: int
    sha256: str
    rows: int
    """Values with a time: in the formats of one row a series as many as its lists hold."""
    series: int


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a check found."""

    folder: Path
    files: tuple[FileFacts, ...]
    findings: tuple[Finding, ...]
    rows: int
    series: int

    @property
    def errors(self) -> list[Finding]:
        """What keeps the data from being uploaded."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What a trainer can live with."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    def raise_if_invalid(self) -> None:
        """Refuse data with errors.

        Raises:
            DataInvalid: there are errors; its message lists them all.
        """
        errors = self.errors
        if errors:
            lines = "\n".join(f"  {finding}" for finding in errors)
            raise DataInvalid(f"the data in {self.folder} cannot be trained on:\n{lines}")

    def manifest(self) -> dict[str, Any]:
        """Files, rows and series as the bucket's MANIFEST.json lists them."""
        return {"files": [asdict(item) for item in self.files], "rows": self.rows, "series": self.series}


class Findings:
    """Collects findings; of one kind in one file it spells out the first few and counts the rest."""

    def __init__(self) -> None:
        self._shown: list[Finding] = []
        self._counts: Counter[tuple[Severity, str, str, str | None]] = Counter()

    def add(
        self,
        severity: Severity,
        kind: str,
        message: str,
        *,
        file: str = FOLDER,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        """Add one finding."""
        self.add_rows(severity, kind, file, [row], lambda _: message, column=column)

    def add_rows(
        self,
        severity: Severity,
        kind: str,
        file: str,
        rows: Sequence[int | None],
        message: Callable[[int], str],
        *,
        column: str | None = None,
    ) -> None:
        """Add one finding a row.

        Args:
            severity: error or warning.
            kind: its short name.
            file: the file's name.
            rows: the rows, counted from 0.
            message: what to say of the n-th of `rows`; asked only for those that are spelled out.
            column: the column at fault.
        """
        key = (severity, kind, file, column)
        room = max(SHOWN_PER_KIND - self._counts[key], 0)
        self._counts[key] += len(rows)
        for position, row in enumerate(rows[:room]):
            self._shown.append(Finding(severity, kind, file, row, column, message(position)))

    def error(
        self,
        kind: str,
        file: str,
        message: Callable[[int], str] | str,
        *,
        rows: Sequence[int] | None = None,
        column: str | None = None,
    ) -> None:
        """Add what the reader of the data says (data/problems.py)."""
        words = (lambda _: message) if isinstance(message, str) else message
        self.add_rows("error", kind, file, [None] if rows is None else rows, words, column=column)

    def all(self) -> tuple[Finding, ...]:
        """Everything found: errors before warnings, then by file and row."""
        more = [
            Finding(severity, kind, file, None, column, f"and {count - SHOWN_PER_KIND} more like these")
            for (severity, kind, file, column), count in self._counts.items()
            if count > SHOWN_PER_KIND
        ]
        return tuple(sorted([*self._shown, *more], key=_reading_order))


def check_dataset(
    folder: Path,
    min_length: int = DEFAULT_MIN_LENGTH,
    columns: Columns | None = None,
    digests: Digests | None = None,
    *,
    held_out: int = 0,
) -> DatasetReport:
    """Read every `*.parquet` file of a folder and say what is wrong with it.

    Args:
        folder: where the files lie, not in folders below; hidden files are passed over.
        min_length: the rows that a trainer needs of a series: context_length + 2 * prediction_length.
        columns: the columns that training will read; None is item_id, timestamp and target.
        digests: of files that were read before.
        held_out: the last rows of each series, which the trainer's forecast is scored by: prediction_length.

    Returns:
        The report; it never raises for what is in the files.
    """
    # pyarrow takes a third of a second to load: not before it is needed.
    from chronos_ec2.workstation.dataset_checks import check_rows
    from chronos_ec2.workstation.dataset_files import find_files, is_readable

    findings, columns, digests = Findings(), columns or Columns(), digests or Digests()
    paths = [path for path in find_files(folder, findings) if is_readable(path, columns, findings)]
    tallies = check_rows(paths, columns, min_length, held_out, findings)
    facts = [
        FileFacts(path.name, path.stat().st_size, digests.of(path).sha256, tally.rows, len(tally.series))
        for path, tally in zip(paths, tallies, strict=True)
    ]
    return DatasetReport(
        folder=folder,
        files=tuple(facts),
        findings=findings.all(),
        rows=sum(item.rows for item in facts),
        series=len(set().union(*(tally.series for tally in tallies))),
    )


def printable(text: str) -> str:
    """A name as it may be shown on a terminal: control characters and broken UTF-8 are escaped."""
    return text if text.isprintable() else ascii(text)


def _reading_order(finding: Finding) -> tuple[bool, str, str, str, bool, int]:
    row = finding.row if finding.row is not None else -1
    is_count = finding.message.endswith("more like these")
    return (
        finding.severity != "error",
        finding.file,
        finding.kind,
        finding.column or "",
        is_count,
        row,
    )
