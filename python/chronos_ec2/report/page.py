"""Put the report together: one HTML file that opens from disk and asks no other file or host for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import jinja2
import pyarrow as pa

from chronos_ec2.report import advice, facts
from chronos_ec2.report.curves import training_curves, utilisation
from chronos_ec2.report.forecasts import read_forecasts
from chronos_ec2.report.page_parts import LIBRARY, PageParts
from chronos_ec2.report.run_files import RunFiles, day_and_time
from chronos_ec2.state.clock import to_text

TEMPLATE: Final = "report.html.j2"
_Part = TypeVar("_Part")


def report_page(run: RunFiles, parts: PageParts, now: datetime, seen_at: datetime | None = None) -> str:
    """A run as a page.

    A part that cannot be made of what the run has left is named on the page; the others are there.

    Args:
        now: the page's own date.
        seen_at: up to when a run without an end is counted; default: now.

    Raises:
        OSError: the template or the library is not there.
    """
    problems, until = list(run.missing), seen_at or now

    def tried(name: str, make: Callable[[], _Part]) -> _Part | None:
        return _tried(name, make, problems)

    forecasts = tried("forecasts", lambda: read_forecasts(run.folder))
    curves = tried("curves", lambda: training_curves(run.metrics, run.training)) or []
    machine = tried("utilisation", lambda: utilisation(run.metrics)) or []
    examples = forecasts.examples if forecasts else []
    ranking = [forecasts.ranking] if forecasts and forecasts.ranking else []
    groups = {"forecasts": examples, "ranking": ranking, "curves": curves, "machine": machine}
    values = {
        "run": run,
        "record": run.record,
        "outcome": str(run.record.get("outcome") or ("running" if run.record else "unknown")),
        "headline": tried("headline", lambda: facts.headline(run, until)) or [],
        "advice": tried("advice", lambda: advice.what_to_do(run.record, run.preflight)) or [],
        "errors": tried("errors", lambda: facts.errors_table(run)) or [],
        "forecasts": forecasts,
        "timeline": tried("timeline", lambda: facts.timeline(run.record, until)) or [],
        "billed": tried("billed time", lambda: facts.billed_time(run.record, until)),
        "cost": tried("cost", lambda: facts.cost_split(run.record)) or [],
        "tables": {
            "Run": tried("run", lambda: facts.run_facts(run)),
            "Data": tried("data", lambda: facts.data_facts(run)),
            "Environment": tried("environment", lambda: facts.environment_facts(run)),
        },
        "checks": facts.checks(run.preflight),
        "groups": groups,
        "charts": {name: [chart.to_json() for chart in group] for name, group in groups.items()},
        "made_at": day_and_time(to_text(now)),
        "problems": problems,
    }
    return render(parts, TEMPLATE, values)


def render(parts: PageParts, template: str, values: dict[str, Any]) -> str:
    """A page of a template; everything in `values` is escaped.

    The page's own policy lets run no script but the two that are part of it, known by their digests.
    """
    script, style = (parts.templates / "report.js").read_text(), (parts.templates / "report.css").read_text()
    program, sheet, terms = (parts.library[name].read_text() for name in LIBRARY)
    library = f"/*\n{terms}*/\n{program}"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(parts.templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(
        **values,
        scripts=[library, script],
        script_digests=[_digest(text) for text in (library, script)],
        style=f"{sheet}\n{style}",
    )
    # Half a character, as a file's name may have it, can be written in no encoding.
    return page.encode("utf-8", errors="replace").decode("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _tried(name: str, make: Callable[[], _Part], problems: list[str]) -> _Part | None:
    """One part of the page; what a run has left may be of any form, and must not cost the page."""
    try:
        return make()
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError, AttributeError) as error:
        problems.append(f"{name}: {type(error).__name__}: {error}")
    except pa.ArrowException as error:
        problems.append(f"{name}: {error}")
    return None
