"""A watched run on a terminal: the whole screen, or the screen once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from chronos_ec2.workstation.sight import Sight, summary
from chronos_ec2.workstation.watch_screen import Screen
from chronos_ec2.workstation.watch_view import PlainView, View


class LiveView:
    """The terminal's whole screen, drawn anew every half second; the end stays as lines on the usual screen.

    Between two looks the times on the screen go on: a call that hangs does not stop them.

    Args:
        now: the wall clock.
    """

    wants_log = True

    def __init__(self, console: Console, now: Callable[[], datetime]) -> None:
        self._console = console
        self._now = now
        self._sight: Sight | None = None
        self._note: str | None = None
        self._live = Live(self, console=console, screen=True, refresh_per_second=2, transient=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The screen as it is now, in the terminal's present size."""
        if self._sight is None:
            yield "looking …"
            return
        yield Screen(console.encoding).draw(
            self._sight, self._now(), options.max_width, console.size.height, self._note
        )

    def begin(self) -> None:
        """Take the terminal's screen."""
        self._live.start()

    def end(self) -> None:
        """Give the terminal back as it was."""
        self._live.stop()

    def show(self, sight: Sight) -> None:
        """Draw the screen, or the end."""
        self._sight = sight
        if sight.word == "corrupt":
            self.leave(sight.detail or "")
        elif not sight.is_over:
            self._live.refresh()
        else:
            self._conclude(sight)

    def _conclude(self, sight: Sight) -> None:
        self.end()
        if sight.word != "idle":
            self._console.print(Screen(self._console.encoding).last(sight, self._console.width))
        for line in summary(sight):
            self._console.print(line, markup=False, highlight=False)

    def note(self, text: str | None) -> None:
        """Show a line until the next one, or until it is taken back."""
        self._note = text
        if text is not None:
            self._live.refresh()

    def leave(self, text: str) -> None:
        """Print a line on the usual screen."""
        self.end()
        self._console.print(f"-- {text}", markup=False, highlight=False)


class OnceView(PlainView):
    """The screen once, as lines that stay."""

    def __init__(self, out: TextIO, console: Console, now: Callable[[], datetime]) -> None:
        super().__init__(out)
        self._console, self._now = console, now

    def show(self, sight: Sight) -> None:
        """Print the screen, or the end."""
        if sight.is_over:
            super().show(sight)
            return
        width, height = self._console.size
        drawn = Screen(self._console.encoding).draw(sight, self._now(), width, height - 1, None)
        self._console.print(drawn)


@contextmanager
def terminal_view(out: TextIO, *, follow: bool, now: Callable[[], datetime]) -> Iterator[View]:
    """The view that fits this terminal: one that cannot move its cursor gets lines."""
    console = Console(file=out)
    if console.is_dumb_terminal:
        yield PlainView(out)
    elif not follow:
        yield OnceView(out, console, now)
    else:
        view = LiveView(console, now)
        view.begin()
        try:
            yield view
        finally:
            view.end()
