"""Records of runs that have ended, kept on this machine: nobody writes into one that has its end.

A history of thousands of runs so costs a request for each new run only. The file may be deleted at any time;
one that cannot be used costs requests and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from chronos_ec2.state.json_text import decode_json

_TABLE: Final = """create table if not exists ended
    (bucket text, environment text, run_id text, record blob, primary key (bucket, environment, run_id))
    without rowid"""
_AT_ONCE: Final = 500
_PATIENCE_SECONDS: Final = 2.0


class HistoryCache:
    """The records of one environment's ended runs.

    Args:
        file: a SQLite file, made when it is first written.
        bucket, environment: whose runs.
    """

    def __init__(self, file: Path, bucket: str, environment: str) -> None:
        self._file, self._of = file, (bucket, environment)

    def find(self, run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records that are here, by run id."""
        wanted, found = list(run_ids), {}
        if not self._file.is_file():
            return {}
        try:
            with closing(self._open()) as opened:
                for begin in range(0, len(wanted), _AT_ONCE):
                    some = wanted[begin : begin + _AT_ONCE]
                    marks = ",".join("?" * len(some))
                    query = (
                        f"select run_id, record from ended where bucket = ? and environment = ? "
                        f"and run_id in ({marks})"
                    )
                    for run_id, stored in opened.execute(query, [*self._of, *some]):
                        record = decode_json(zlib.decompress(stored))
                        if isinstance(record, dict):
                            found[run_id] = record
        except (sqlite3.Error, OSError, ValueError, zlib.error):
            return {}
        return found

    def keep(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the records, by run id, that have their end."""
        rows = [
            (*self._of, run_id, zlib.compress(json.dumps(record).encode()))
            for run_id, record in records.items()
            if record.get("outcome") and record.get("ended_at")
        ]
        if not rows:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as opened, opened:
                opened.execute(_TABLE)
                opened.executemany("insert or replace into ended values (?, ?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            # What is no database any more is begun anew the next time; what another holds is left alone.
            if not isinstance(error, sqlite3.OperationalError):
                self._file.unlink(missing_ok=True)
        except OSError:
            return

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=_PATIENCE_SECONDS)
