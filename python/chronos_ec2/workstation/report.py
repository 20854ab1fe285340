"""A run's report, made here of what lies in the bucket or in a fetched folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chronos_ec2.errors import ChronosError, NoSuchRun
from chronos_ec2.metrics_log import PARTS, time_of
from chronos_ec2.report.page import report_page
from chronos_ec2.report.page_parts import PageParts
from chronos_ec2.report.run_files import READ, RECORD, RunFiles, read_run
from chronos_ec2.state.clock import utc_now
from chronos_ec2.workstation.run_cost import cost_until, no_later
from chronos_ec2.workstation.run_ids import latest_run_id, list_run_ids, no_such_run, run_prefix
from chronos_ec2.workstation.runs import look_up
from chronos_ec2.workstation.s3 import get_bytes, in_parallel, list_prefix
from chronos_ec2.workstation.settings import REPOSITORY
from chronos_ec2.workstation.toolchain import report_library

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client


def report_of_bucket(
    s3: S3Client,
    ec2: EC2Client,
    bucket: str,
    environment: str,
    *,
    into: Path | None,
    out: TextIO,
    run_id: str | None = None,
    now: Callable[[], datetime] = utc_now,
) -> Path:
    """Write the report of a run, also of one that goes on, or that never wrote its own.

    The record of a run whose machine is gone gets its end first, as in `list_runs`.

    Args:
        into: the page; default: `results/{run_id}/report.html`.
        out: where the page's path is printed.
        run_id: which run; None means the active one, else the newest.

    Raises:
        NoSuchRun: nothing lies under that run; names the runs there are.
        StorageDenied: S3 refused.
        ChronosError: the page cannot be written.
    """
    run_id = run_id or latest_run_id(s3, bucket, environment)
    prefix = run_prefix(environment, run_id)
    names = [item.key[len(prefix) :] for item in list_prefix(s3, bucket, prefix)]
    if not names:
        raise no_such_run(environment, run_id, list_run_ids(s3, bucket, environment))
    wanted = [name for name in names if name in READ or _is_part(name)]
    with tempfile.TemporaryDirectory(prefix="chronos-report-") as kept:
        folder = Path(kept) / run_id
        (folder / PARTS).mkdir(parents=True)

        def bring(name: str) -> None:
            found = get_bytes(s3, bucket, f"{prefix}{name}")
            if found is not None:
                (folder / name).write_bytes(found[0])

        outcome = look_up(s3, ec2, bucket, environment, run_id, now=now).outcome
        in_parallel(bring, wanted)
        run, page = read_run(folder), into or Path("results") / run_id / "report.html"
        if run.record and not run.record.get("outcome") and outcome != "running":
            run = replace(run, record={**run.record, "outcome": outcome})
        return _write(run, page, out, now(), now())


def report_of_folder(
    folder: Path, *, into: Path | None, out: TextIO, now: Callable[[], datetime] = utc_now
) -> Path:
    """Write the report of a fetched run.

    Args:
        folder: what `fetch` made, with `run.json` in it.
        into: the page; default: report.html in there.

    Raises:
        NoSuchRun: the folder has no record of a run.
        ChronosError: the page cannot be written.
    """
    if not (folder / RECORD).is_file():
        raise NoSuchRun(f"{folder} has no {RECORD}: give the folder of one run, as invoke fetch makes it")
    run = read_run(folder)
    records = (*run.metrics.training, *run.metrics.samples)
    told = [at for record in records if (at := time_of(record)) is not None]
    # A run that went on when it was fetched is shown as it was then.
    return _write(run, into or folder / "report.html", out, now(), min([now(), *told[-1:]]))


def _is_part(name: str) -> bool:
    inner = name.removeprefix(PARTS)
    return name.startswith(PARTS) and inner.endswith(".jsonl") and "/" not in inner


def _write(run: RunFiles, page: Path, out: TextIO, now: datetime, seen_at: datetime) -> Path:
    seen_at = no_later(run.record, seen_at)
    if run.record and run.record.get("ended_at") is None:
        run = replace(run, record={**run.record, "cost_usd": cost_until(run.record, seen_at)})
    parts = PageParts(REPOSITORY / "templates" / "report", report_library())
    text = report_page(run, parts, now, seen_at)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ChronosError(
            f"cannot write {page}: {error.strerror or error}; choose another with --into"
        ) from error
    out.write(f"{page}\n")
    return page
