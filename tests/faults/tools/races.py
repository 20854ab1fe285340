"""Writers of one state file that meet: in every order of their changes, or all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from chronos_ec2.instance.heartbeat import Heartbeat
from chronos_ec2.state.store import StateStore
from tools.fault_proxy import FaultProxy, Request
from tools.lab import ENVIRONMENT, Lab
from tools.programs import Running

RUN: Final = "2025-01-15-143022"
"""The run that holds the environment when they meet."""


def publishes(request: Request) -> bool:
    """Whether a request would change the state file."""
    return request.operation.kind == "state" and request.operation.name in ("CopyObject", "DeleteObject")


@dataclass
class Beat:
    """One heartbeat of an instance, in this process."""

    lost: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None

    def over(self) -> bool:
        """Whether it has been written, or given up."""
        return self.thread is not None and not self.thread.is_alive()

    def wait(self) -> None:
        """Wait for it."""
        assert self.thread is not None
        self.thread.join(60)


def beat(lab: Lab, url: str) -> Beat:
    """Start a heartbeat of the run that holds the environment."""
    done = Beat()
    client, bucket = lab.s3_by(url), lab.bucket
    heart = Heartbeat(
        lambda: StateStore(client, bucket, ENVIRONMENT),
        RUN,
        interval_seconds=3600,
        progress=lambda: "step_9",
        on_lost=done.lost.append,
        log=done.log.append,
    )
    heart.stop()  # no pause: a stopped heart beats once at its start and once at its end
    done.thread = heart._thread
    heart.start(7)
    return done


Actor = Callable[[Lab, str], Running | Beat]


def bash_move(status: str, step: str) -> Actor:
    """The instance's, or a kill's, transition in Bash."""

    def start(lab: Lab, url: str) -> Running:
        return lab.bash('transition_state "$@"', lab.bucket, ENVIRONMENT, RUN, status, step, url=url)

    return start


def bash_delete(lab: Lab, url: str) -> Running:
    """The last act of an instance."""
    return lab.bash('delete_state "$@"', lab.bucket, ENVIRONMENT, RUN, url=url)


def last_acts(lab: Lab, url: str) -> Running:
    """The last acts of an instance whose training has succeeded, but for its power-off."""
    line = """
      transition_state "$1" "$2" "$3" cleanup cleanup || true
      finish_run_record "$1" "$2" "$3" succeeded "" "" 0 || true
      delete_state "$1" "$2" "$3"
    """
    return lab.bash(line, lab.bucket, ENVIRONMENT, RUN, url=url)


def kill_now(lab: Lab, url: str) -> Running:
    """The whole kill script."""
    return lab.kill("--now", url=url)


def kill(lab: Lab, url: str) -> Running:
    """The whole kill script, asking first."""
    return lab.kill(url=url)


def launch(lab: Lab, url: str) -> Running:
    """The whole launch script."""
    return lab.launch(url=url)


def race(lab: Lab, actors: Sequence[Actor], order: tuple[int, ...] | None) -> list[Running | Beat]:
    """Start all; hold each before its first change of the state file; let them go on in an order.

    The next goes on when the one before has ended, or its change has reached the state file. Without an order
    all go on at once.
    """
    with ExitStack() as stack:
        proxies = [stack.enter_context(lab.proxy()) for _ in actors]
        for proxy in proxies:
            proxy.hold(publishes)
        running = [actor(lab, proxy.url) for actor, proxy in zip(actors, proxies, strict=True)]
        held = [proxy.wait_held(60, unless=one.over) for proxy, one in zip(proxies, running, strict=True)]
        for index in range(len(actors)) if order is None else order:
            waiting, proxy = held[index], proxies[index]
            if waiting is not None:
                waiting.release()
            if waiting is not None and order is not None:
                _await_effect(proxy, waiting.request, running[index])
        for one in running:
            one.wait()
    return running


def _await_effect(proxy: FaultProxy, request: Request, running: Running | Beat) -> None:
    while request.number not in proxy.answered and not running.over():
        threading.Event().wait(0.005)
