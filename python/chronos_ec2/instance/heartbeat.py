"""The thread that keeps the state file alive while training runs, and notices when the run has lost it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from chronos_ec2.state.store import Snapshot, StateStore

_RACES: Final = 3
_OVER: Final = frozenset({"failed", "killed", "cleanup"})


class Heartbeat:
    """Writes `current_step`, `pid` and `last_update` every so many seconds; the status stays as it is.

    Nothing that S3 does reaches the training: what fails is told to `log` and tried again at the next beat.
    Only three findings end it, and each is told to `on_lost` once: the state file is gone, belongs to
    another run, or says that the run is over.

    Args:
        open_store: makes the store, in this thread, again after each failure.
        run_id: the run that must hold the environment.
        interval_seconds: pause between two beats.
        progress: the newest `current_step`, or None to leave it as it is.
        timeline: when the training came how far; goes with the state's `control.timeline`.
        on_lost: called from this thread with the reason.
        log: takes one line of talk.
    """

    def __init__(
        self,
        open_store: Callable[[], StateStore],
        run_id: str,
        *,
        interval_seconds: float,
        progress: Callable[[], str | None],
        timeline: Callable[[], Mapping[str, str]] = dict,
        on_lost: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        self._open_store = open_store
        self._run_id = run_id
        self._interval = interval_seconds
        self._progress = progress
        self._timeline = timeline
        self._on_lost = on_lost
        self._log = log
        self._store: StateStore | None = None
        self._pid: int | None = None
        self._lost = False
        self._failures = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def start(self, pid: int) -> None:
        """Begin to beat, at once, for the training process `pid`."""
        self._pid = pid
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End with a last beat that takes the pid back; wait for it no longer than the time-out."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)

    def _loop(self) -> None:
        self._beat_safely()
        while not self._lost and not self._stopped.wait(self._interval):
            self._beat_safely()
        if not self._lost:
            self._pid = None
            self._beat_safely()

    def _beat_safely(self) -> None:
        try:
            self._beat()
            if self._failures:
                self._log(f"heartbeat: the state file was written again after {self._failures} failures")
            self._failures = 0
        except Exception as error:
            self._store = None
            self._failures += 1
            self._log(f"heartbeat failed, training goes on: {type(error).__name__}: {error}")

    def _beat(self) -> None:
        if self._store is None:
            self._store = self._open_store()
        for _ in range(_RACES):
            seen = self._store.read()
            reason = self._reason_to_stop(seen, self._store.uri)
            if reason is not None:
                self._lost = True
                self._on_lost(reason)
                return
            assert seen is not None
            if self._store.update(seen, self._changes(seen.body)) is not None:
                return

    def _changes(self, body: Mapping[str, Any]) -> dict[str, Any]:
        step = self._progress()
        changes: dict[str, Any] = {"pid": self._pid, **({"current_step": step} if step is not None else {})}
        if reached := self._timeline():
            known = body["control"].get("timeline")
            timeline = {**(known if isinstance(known, dict) else {}), **reached}
            changes["control"] = {**body["control"], "timeline": timeline}
        return changes

    def _reason_to_stop(self, seen: Snapshot | None, uri: str) -> str | None:
        if seen is None:
            return f"{uri} is gone: nothing holds the environment for this run any more"
        if seen.run_id != self._run_id:
            return f"{uri} belongs to run {seen.run_id} now"
        if seen.status in _OVER:
            said = seen.body["error_message"]
            return f"the state file says {seen.status}" + (f": {said}" if said else "")
        return None
