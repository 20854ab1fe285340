"""EC2 takes a spot instance back, when somebody asks for it.

Real EC2: two minutes before the end `spot/instance-action` and `spot/termination-time` appear in the
instance's metadata, which answer 404 until then; at that time the instance is ended whatever it does, with
the state reason Server.SpotInstanceTermination. Some time before, or at the same time,
`events/recommendations/rebalance` may say that it might happen; most instances with this hint live on. Only
spot instances are taken back.

POST /_chronos/interrupt does it here: {"instance_id": ID or null for the only one, "notice_seconds": 120,
"rebalance": false}.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from chronos_ec2.errors import UsageProblem
from chronos_ec2.local_cloud.guest import Guest
from chronos_ec2.local_cloud.instance_host import InstanceHost
from chronos_ec2.state.clock import to_text, utc_now

PATH: Final = "/_chronos/interrupt"
NOTICE_SECONDS: Final = 120.0
REASON: Final = ("Server.SpotInstanceTermination", "Spot instance termination")

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def interrupt(
    host: InstanceHost,
    instance_id: str | None,
    *,
    notice_seconds: float = NOTICE_SECONDS,
    rebalance: bool = False,
    now: Callable[[], datetime] = utc_now,
) -> dict[str, str]:
    """Announce that a spot instance is taken back, and do it when the time has come.

    Args:
        instance_id: which one; None: the only spot instance that has power.
        notice_seconds: from the notice to the end.
        rebalance: only give the hint.

    Returns:
        `{"instance_id", "time"}`: whose metadata says it now, and the time that it names.

    Raises:
        UsageProblem: there is no such spot instance, or more than one and none was named; or the time is off.
    """
    if not 0 <= notice_seconds <= 3600:
        raise UsageProblem(f"notice_seconds: got {notice_seconds}, need 0 to 3600")
    guest = _choose(host.guests(), instance_id)
    if rebalance:
        time = to_text(now())
        guest.notices["meta-data/events/recommendations/rebalance"] = json.dumps({"noticeTime": time})
    else:
        time = to_text(now() + timedelta(seconds=notice_seconds))
        guest.notices["meta-data/spot/termination-time"] = time
        guest.notices["meta-data/spot/instance-action"] = json.dumps({"action": "terminate", "time": time})
        timer = threading.Timer(notice_seconds, host.terminate, (guest.instance, REASON))
        timer.daemon = True
        timer.start()
    return {"instance_id": str(guest.instance.id), "time": time}


def _choose(guests: list[Guest], instance_id: str | None) -> Guest:
    spot = {guest.instance.id: guest for guest in guests if guest.instance.lifecycle == "spot"}
    if instance_id is None and len(spot) == 1:
        return next(iter(spot.values()))
    if instance_id in spot:
        return spot[instance_id]
    known = ", ".join(sorted(spot)) or "none; invoke launch --env local --spot starts one"
    asked = f"{instance_id} is no spot instance that runs" if instance_id else "say which with --instance"
    raise UsageProblem(f"{asked}; spot instances that run: {known}")


class InterruptionPage:
    """Answers `PATH` itself and passes everything else on."""

    def __init__(self, application: Wsgi) -> None:
        self._application = application
        self.host: InstanceHost | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH or self.host is None:
            return self._application(environ, start_response)
        status, answer = self._answer(self.host, environ)
        body = json.dumps(answer).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    @staticmethod
    def _answer(host: InstanceHost, environ: dict[str, Any]) -> tuple[str, dict[str, str]]:
        try:
            asked = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")
            seconds = float(asked.get("notice_seconds", NOTICE_SECONDS))
            rebalance = bool(asked.get("rebalance", False))
            done = interrupt(host, asked.get("instance_id"), notice_seconds=seconds, rebalance=rebalance)
        except (UsageProblem, ValueError, TypeError, AttributeError) as error:
            return "400 Bad Request", {"error": str(error)}
        return "200 OK", done
