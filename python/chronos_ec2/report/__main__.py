"""Write a run's report as one HTML file.

usage: python -m chronos_ec2.report --run DIR --parts DIR --into FILE

DIR of --run is laid out like the run's prefix in the bucket: run.json, training.json, metrics.jsonl, …
What is missing there is named on the page.

Exit: 0 written; 1 not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from chronos_ec2.report.page import report_page
from chronos_ec2.report.page_parts import PageParts
from chronos_ec2.report.run_files import read_run
from chronos_ec2.state.clock import utc_now


def write_report(folder: Path, parts: PageParts, into: Path) -> None:
    """Write the report of a run's folder; the file is there whole or not at all.

    Raises:
        OSError: the page's parts cannot be read, or the file cannot be written.
    """
    page = report_page(read_run(folder), parts, utc_now())
    draft = into.with_name(f".tmp-{into.name}")
    draft.write_text(page, encoding="utf-8")
    draft.replace(into)


def main(argv: Sequence[str]) -> int:
    """Write the report that `argv` describes and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR")
    parser.add_argument("--parts", type=Path, required=True, metavar="DIR", help="template and library")
    parser.add_argument("--into", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(argv)
    try:
        write_report(given.run, PageParts.in_one_folder(given.parts), given.into)
    except OSError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
