"""Each of the three dead man's switches ends a machine on its own, whatever is wrong with it.

The switch in the guest, the one outside and `invoke reap`: while one is tried the other two are out of
action, that of the guest by a `shutdown` that never shuts down.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest
from tools.doomed import (
    DEADLINE,
    NAME,
    Doomed,
    later,
    s3_is_gone,
    silent_network,
    write_programs,
)
from tools.lab import LATER, Lab
from tools.tally import Tally

from chronos_ec2.errors import ChronosError
from chronos_ec2.exit_codes import ExitCode

SWITCH: Final = "var/lib/cloud/scripts/per-boot/00-chronos-switch"
ITSELF, BY_API = "Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown"
MINUTES: Final = 6
"""That a doomed machine may live; they last a second each."""
FAULTS: Final = (
    "hung before its first line",
    "network cut",
    "clock back",
    "clock ahead",
    "S3 gone",
    "power-off fails",
    "rebooted",
)
CELLS: Final = [
    *((switch, fault) for switch in ("guest", "outside", "reap") for fault in FAULTS),
    ("launch", FAULTS[0]),
]
SHORT: Final = [
    ("guest", "clock back"),
    ("guest", "rebooted"),
    ("outside", "power-off fails"),
    ("reap", "network cut"),
]


def test_each_switch_alone(lab: Lab, tally: Tally, full: bool) -> None:
    try:
        for switch, fault in CELLS if full else SHORT:
            lab.clear()
            tally.count("dead man's switches", f"{fault}: {TRIES[switch](lab, fault)}")
    finally:
        (lab.home / "guest-programs").unlink(missing_ok=True)  # the next test's machines have whole ones


def doomed(lab: Lab, fault: str, *, power: bool, minutes: int = MINUTES) -> Doomed:
    """A machine that the fault has struck, after its user data had the chance to arm the guest's switch."""
    works = fault == "S3 gone"
    programs = write_programs(lab, power=power and fault != "power-off fails", aws=works)
    with silent_network() as silence, lab.proxy(s3_is_gone) as proxy:
        endpoint = {"network cut": silence, "S3 gone": proxy.url}.get(fault)
        asleep = fault == "hung before its first line" and not power
        machine = Doomed(lab, minutes=minutes, programs=None if asleep else programs, endpoint=endpoint)
        if not asleep:
            machine.wait_for(SWITCH)
        if fault == "clock back":
            machine.jump(timedelta(days=-1))
        elif fault == "clock ahead":
            machine.jump(timedelta(hours=2))
        elif fault == "rebooted":
            machine.reboot()
    return machine


def by_guest(lab: Lab, fault: str) -> str:
    """Nobody outside knows of the machine: it ends itself, unless it cannot."""
    machine = doomed(lab, fault, power=True, minutes=60 if fault == "clock ahead" else MINUTES)
    if fault == "power-off fails":
        machine.wait_for("run/refused")
        machine.wait_for_refusals(2)
        assert machine.state == "running"
        return "the guest's switch cannot; it tries on"
    assert machine.reason() == ITSELF
    return "ended by the guest's switch"


def by_outside(lab: Lab, fault: str) -> str:
    """The guest cannot power off, and nobody reaps."""
    machine = doomed(lab, fault, power=False)
    machine.arm_outside()
    assert machine.state == "running" and lab.schedules() == [NAME]
    with later(lab, DEADLINE + timedelta(minutes=6)):
        assert machine.reason() == BY_API
        machine.wait_until(lambda: lab.schedules() == [])
    return "ended by the outside switch"


def by_reap(lab: Lab, fault: str) -> str:
    """The guest cannot power off, and nothing is scheduled."""
    machine = doomed(lab, fault, power=False)
    if fault != "S3 gone":
        assert lab.reap(later=LATER)[0] == ExitCode.OK
    else:
        with lab.proxy(s3_is_gone) as proxy, pytest.raises(ChronosError):
            lab.reap(later=LATER, url=proxy.url)  # it says what it could not see, and ends what is overdue
    assert machine.reason() == BY_API
    return "ended by reap"


def by_launch(lab: Lab, _fault: str) -> str:
    """A machine whose user data never runs, from a launch as it is, and nobody there but its schedule."""
    end = lab.launch().wait()
    assert end.status == 0, end.stderr
    said = json.loads(end.stdout)
    assert lab.schedules() == [f"chronos-local-{said['run_id']}"]
    with later(lab, timedelta(minutes=34)):  # the deadline is half an hour from the launch
        assert lab.instances() != {}
    with later(lab, timedelta(minutes=36)):
        lab.wait_for_no_instance(60)
    lab.forget_schedules()
    return "ended by the schedule of its launch"


TRIES: Final[dict[str, Callable[[Lab, str], str]]] = {
    "guest": by_guest,
    "outside": by_outside,
    "reap": by_reap,
    "launch": by_launch,
}
