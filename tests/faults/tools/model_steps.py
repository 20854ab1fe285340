"""How a program of the model is written: generators that yield its calls, named as the real functions are.

A program's state is the stage it is in and the answers it has had there, so the explorer can copy it, compare
it and go back to it. A stage ends with `Goto` (the next one, with all that it needs to know) or an exit code.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from chronos_ec2.exit_codes import ExitCode
from tools.model_cloud import LOST


class Call(NamedTuple):
    """One step: a call to AWS, or (`choose`, `nonce`, `wait_gone`) a turn that is the program's own."""

    name: str
    arguments: tuple[Any, ...] = ()


class Goto(NamedTuple):
    """The next stage of a program."""

    stage: str
    arguments: tuple[Any, ...] = ()


Steps = Generator[Call, Any, Any]
End = Goto | ExitCode


def retry_with_backoff(call: Call) -> Steps:
    """Ask again after an answer that never came; what the last try brought."""
    while True:
        answer = yield call
        if answer is not LOST:
            return answer


def frames(steps: Any) -> Iterator[tuple[str, int, tuple[Any, ...]]]:
    """The functions that a suspended program is in, outermost first: name, place, and variables."""
    while steps is not None and hasattr(steps, "gi_code"):
        frame = steps.gi_frame
        variables = tuple(
            tuple(value.items()) if isinstance(value, dict) else value
            for name, value in frame.f_locals.items()
            if name != "self"
        )
        yield steps.gi_code.co_name, frame.f_lasti, variables
        steps = steps.gi_yieldfrom
