"""Stop a program with SIGKILL at its N-th request, before it takes effect or before its answer comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.fault_proxy import Request
from tools.lab import Lab
from tools.naming import Operation
from tools.programs import Running

Start = Callable[[Lab, str], Running]


@dataclass(frozen=True, slots=True)
class Point:
    """Where a program is stopped: at its N-th request, or at the first of an operation."""

    where: int | str
    after_effect: bool

    def __str__(self) -> str:
        return f"{'after' if self.after_effect else 'before'} request {self.where}"

    def match(self, request: Request) -> bool:
        """Whether a request is the one."""
        return self.where in (request.number, str(request.operation))


def points(count: int) -> Iterator[Point]:
    """Every point of a program that makes `count` requests."""
    for number in range(1, count + 1):
        yield Point(number, False)
        yield Point(number, True)


def crash(lab: Lab, start: Start, point: Point) -> Operation | None:
    """Run a program up to a point and stop it there.

    Returns:
        The operation at which it was stopped; None when it ended before it got there.
    """
    with lab.proxy() as proxy:
        proxy.hold(point.match, after_effect=point.after_effect)
        running = start(lab, proxy.url)
        held = proxy.wait_held(60, unless=running.over)
        running.kill()
        running.wait()
        if held is not None:
            held.drop()
    return held.request.operation if held is not None else None


def count_requests(lab: Lab, start: Start) -> list[Operation]:
    """The requests of a program that nothing disturbs."""
    with lab.proxy() as proxy:
        end = start(lab, proxy.url).wait()
        assert end.status == 0, end
        return [request.operation for request in proxy.seen]
