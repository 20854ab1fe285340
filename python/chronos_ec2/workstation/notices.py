"""Tell the stack's topic what only the laptop finds out: a run that is silent, or that ended without a word.

`shell/lib/notices.sh` writes and sends the notice, as on the instance; it sends each event of a run once,
whoever tells it. Nothing here is ever an error of the command that tells.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from chronos_ec2.words import span_text
from chronos_ec2.workstation.commands import aws_environment
from chronos_ec2.workstation.settings import REPOSITORY, Settings

if TYPE_CHECKING:
    from chronos_ec2.workstation.sight import Sight

Event = Literal["end", "stall"]
LIBRARY: Final = REPOSITORY / "shell" / "lib" / "notices.sh"
LIMIT_SECONDS: Final = 40.0
"""The library ends by itself in 21 s."""


class Teller:
    """Sends notices of one environment's runs.

    Args:
        settings: the environment's settings.
        topic_arn: the topic; empty where the stack has none, and then nothing is sent.
        bucket: the stack's bucket.
        out: where it says what it has sent, or why it could not; None: standard error as it is then.
        run: `subprocess.run`, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        topic_arn: str,
        bucket: str,
        *,
        out: TextIO | None = None,
        run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
    ) -> None:
        self._settings = settings
        self._topic_arn = topic_arn
        self._bucket = bucket
        self._out = out
        self._run = run
        self._told: set[tuple[Event, str]] = set()
        self._seen_alive: set[str] = set()

    def tell(self, event: Event, run_id: str, lacking: Mapping[str, Any] | None = None) -> None:
        """Send one notice, unless this run's event was told before; waits for it at most `LIMIT_SECONDS`.

        Args:
            lacking: what run.json may not say.
        """
        if not self._topic_arn or (event, run_id) in self._told:
            return
        self._told.add((event, run_id))
        words = [self._topic_arn, self._bucket, self._settings.environment, run_id, event]
        argv = ["bash", "-uc", 'source "$0" && notify "$@"', str(LIBRARY), *words, json.dumps(lacking or {})]
        try:
            done = self._run(
                argv,
                env=aws_environment(self._settings),
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
            said = done.stderr
        except (OSError, subprocess.SubprocessError) as error:
            said = f"the notice of the {event} of run {run_id} was not sent: {error}\n"
        (self._out or sys.stderr).write(said)

    def saw(self, sight: Sight) -> None:
        """Tell what a look at a run has shown: silence past `stale_minutes`, an end that nobody wrote."""
        if sight.run_id is None:
            return
        silent = sight.heartbeat_age_seconds or 0.0
        if sight.word == "stalled" and silent >= self._settings.stale_minutes * 60:
            step = sight.current_step or "an unknown step"
            self.tell("stall", sight.run_id, {"silent_for": span_text(silent), "current_step": step})
        # A run that had ended before anybody looked is no news.
        if sight.outcome is None:
            self._seen_alive.add(sight.run_id)
        elif sight.outcome in ("lost", "interrupted") and sight.run_id in self._seen_alive:
            self.tell("end", sight.run_id, {"outcome": sight.outcome})
