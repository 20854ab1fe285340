"""How a watched run is shown: a screen on a terminal, a line a change elsewhere, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, TextIO

from chronos_ec2.state.clock import utc_now
from chronos_ec2.words import one_line, printable, size_text, span_text
from chronos_ec2.workstation.sight import Sight, age_text, cost_so_far, summary


class View(Protocol):
    """What `watch` shows sights on."""

    wants_log: bool

    def show(self, sight: Sight) -> None:
        """Show what one look saw."""

    def note(self, text: str | None) -> None:
        """Say something that is not the run's; None takes back what holds no longer."""

    def leave(self, text: str) -> None:
        """Say the last words of a watch that ends before its run."""


def progress_text(sight: Sight) -> str:
    """How far the run has come, in a few words."""
    progress = sight.progress
    if sight.status != "training":
        parts = []
        for name, one in (progress.fetched or {}).items():
            of = f" of {size_text(one.total)}" if one.total else ""
            parts.append(f"{name} {size_text(one.bytes)}{of}")
        return ", ".join(parts)
    parts = []
    if progress.share is not None:
        parts.append(f"{progress.share:.0%} of {progress.total_steps} steps")
    if progress.losses:
        parts.append(f"loss {progress.losses[-1]:.4g}")
    if progress.seconds_left is not None:
        parts.append(f"{span_text(progress.seconds_left)} left")
    if progress.idle_minutes is not None:
        parts.append(f"the GPU has done nothing for {progress.idle_minutes:.0f} min and more")
    return ", ".join(parts)


class PlainView:
    """One line a change; the end in a few lines."""

    wants_log = True

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: tuple[object, ...] | None = None

    def show(self, sight: Sight) -> None:
        """Print the sight if it differs from the last one."""
        progress = sight.progress
        alarms = (progress.fetched, progress.idle_minutes, progress.kernel)
        seen = (sight.status, sight.current_step, sight.word, sight.instance_id, sight.detail, *alarms)
        if not sight.is_over:
            if seen != self._shown:
                self._say("  ".join(filter(None, self._cells(sight))))
        else:
            if sight.outcome not in (None, "succeeded") and sight.word != "idle":
                for line in sight.log_tail:
                    self._say(printable(line))
            for line in summary(sight):
                self._say(line)
        self._shown = seen

    def note(self, text: str | None) -> None:
        """Print a line of talk."""
        if text is not None:
            self._say(f"-- {text}")

    leave = note

    def _cells(self, sight: Sight) -> Iterable[str]:
        status = f"{sight.status:<15}{sight.current_step or '-':<16}" if sight.status else ""
        return (
            f"{sight.seen_at:%H:%M:%SZ}",
            sight.run_id or sight.environment,
            status,
            f"{sight.word:<11}",
            age_text(sight),
            progress_text(sight),
            cost_so_far(sight),
            one_line(sight.detail or ""),
            one_line(sight.progress.kernel or ""),
        )

    def _say(self, text: str) -> None:
        self._out.write(text.rstrip() + "\n")
        self._out.flush()


class JsonView:
    """One JSON object a change; notes are left out, as they are not data."""

    wants_log = True

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: tuple[object, ...] | None = None

    def show(self, sight: Sight) -> None:
        """Print the sight's object if it differs from the last one."""
        more = (sight.outcome, sight.progress.fetched, sight.progress.idle_minutes)
        seen = (sight.status, sight.current_step, sight.word, sight.instance_id, *more)
        if seen != self._shown:
            self._out.write(json.dumps(sight.to_json()) + "\n")
            self._out.flush()
        self._shown = seen

    def note(self, text: str | None) -> None:
        """Say nothing: the stream is for programs."""

    leave = note


@contextmanager
def make_view(
    out: TextIO, *, as_json: bool, follow: bool, now: Callable[[], datetime] = utc_now
) -> Iterator[View]:
    """The view that fits: JSON when asked for, a screen on a terminal, else lines."""
    if as_json:
        yield JsonView(out)
    elif not out.isatty():
        yield PlainView(out)
    else:
        # Rich takes a tenth of a second to load, and lines do without.
        from chronos_ec2.workstation.watch_terminal import terminal_view

        with terminal_view(out, follow=follow, now=now) as view:
            yield view
