"""What a hypervisor does: powers guests on and off, and tells EC2 how they ended.

It is hooked around moto's instance, so it acts in the very call that changes an instance:
RunInstances and StartInstances power a guest on, StopInstances and TerminateInstances press its power button,
RebootInstances does both. A guest that powers itself off ends as InstanceInitiatedShutdownBehavior says; one
whose script merely ends keeps running, and billing, as on EC2.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Instance, InstanceBackend, StateReason

from chronos_ec2.local_cloud import supervisor
from chronos_ec2.local_cloud.disk import disks_in, wipe_disk
from chronos_ec2.local_cloud.gaps import around
from chronos_ec2.local_cloud.guest import Guest, Hardware
from chronos_ec2.local_cloud.home import Home

KEPT_CONSOLES: Final = 50
PENDING_SECONDS: Final = 0.3
_HOSTS_A_NET: Final = 254
_LOG = logging.getLogger(__name__)
_GUEST_SHUTDOWN: Final = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
_HOST_FAILURE: Final = ("Server.InternalError", "The instance host could not run the guest")


@dataclass(frozen=True, slots=True)
class Originals:
    """moto's own transitions, which end what the host begins."""

    terminate: Callable[[Any], Any]
    stop: Callable[[Any], Any]


class InstanceHost:
    """All guests of one embedded AWS."""

    def __init__(
        self,
        home: Home,
        hardware: Hardware,
        originals: Originals,
        failure_at_start: Callable[[Any], tuple[str, str] | None],
    ) -> None:
        self._failure_at_start = failure_at_start
        self._home = home
        self._hardware = hardware
        self._originals = originals
        self._lock = threading.RLock()
        self._guests: dict[str, Guest] = {}
        self._then: dict[str, Callable[[Guest], None]] = {}
        self._closing = False
        self._addresses = itertools.count()
        for folder in (home.disks, home.consoles):
            folder.mkdir(parents=True, exist_ok=True)

    def give_address(self, instance: Any) -> None:
        """Give an instance the private address at which the others reach it.

        Guests share this machine's network. All of 127.0.0.0/8 leads to it without being set up, so each has
        an address of its own there, in place of one of its subnet, which nobody could reach.
        """
        net, host = divmod(next(self._addresses), _HOSTS_A_NET)
        card = instance.nics[0]
        card.private_ip_address = f"127.77.{net % 256}.{host + 1}"
        for one in card.private_ip_addresses[:1]:
            one["PrivateIpAddress"] = card.private_ip_address

    def power_on(self, instance: Any) -> None:
        """Boot an instance: the first time its user data, later its per-boot scripts."""
        with self._lock:
            if self._closing or instance.id in self._guests:
                return
            failure = self._failure_at_start(instance)
            if failure is not None:
                self._fail_to_start(instance, failure)
                return
            console = self._home.consoles / f"{instance.id}.log"
            try:
                guest = Guest(instance, self._home.disks / instance.id, console, self._hardware)
            except OSError:
                _LOG.exception("cannot boot %s", instance.id)
                self._terminated(instance, _HOST_FAILURE)
                return
            self._guests[instance.id] = guest
        threading.Thread(target=self._watch, args=(guest,), daemon=True, name=instance.id).start()

    def _fail_to_start(self, instance: Any, reason: tuple[str, str]) -> None:
        """Pending for a moment, then terminated: a pool that has accepted and lacks something after all."""
        _set_state(instance, "pending", 0)
        timer = threading.Timer(PENDING_SECONDS, self._terminated, (instance, reason))
        timer.daemon = True
        timer.start()

    def terminate(self, instance: Any, reason: tuple[str, str] | None = None) -> Any:
        """TerminateInstances: shutting-down at once, terminated when nothing is left of the guest.

        Args:
            reason: code and words of the StateReason when it is EC2's own doing.
        """
        before = copy.copy(instance._state)
        if instance.state in ("shutting-down", "terminated"):
            return before
        with self._lock:
            _set_state(instance, "shutting-down", 32)
            guest = self._guests.get(instance.id)
            if guest is not None:
                self._then[instance.id] = lambda _guest: self._terminated(instance, reason)
                guest.press_power_button()
        if guest is None:
            self._terminated(instance, reason)
        return before

    def stop(self, instance: Any) -> Any:
        """StopInstances: stopping at once, stopped when the guest is off; the disk stays."""
        _require_alive(instance)
        before = copy.copy(instance._state)
        with self._lock:
            guest = self._guests.get(instance.id)
            if guest is not None:
                _set_state(instance, "stopping", 64)
                self._then[instance.id] = lambda _guest: self._originals.stop(instance)
                guest.press_power_button()
        if guest is None:
            self._originals.stop(instance)
        return before

    def reboot(self, instance: Any) -> None:
        """RebootInstances: off and on again, without the user data."""
        with self._lock:
            guest = self._guests.get(instance.id)
            if guest is not None:
                self._then.setdefault(instance.id, lambda _guest: self.power_on(instance))
                guest.press_power_button()

    def console(self, instance_id: str, limit: int) -> bytes:
        """The last `limit` bytes of an instance's console, also after its end."""
        try:
            with (self._home.consoles / f"{instance_id}.log").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - limit))
                return file.read()
        except OSError:
            return b""

    def guests(self) -> list[Guest]:
        """The guests that have power."""
        with self._lock:
            return list(self._guests.values())

    def running(self) -> list[str]:
        """The ids of the guests that have power."""
        return sorted(guest.instance.id for guest in self.guests())

    def close(self) -> None:
        """Pull every plug and wipe every disk."""
        with self._lock:
            self._closing = True
            guests = list(self._guests.values())
        for guest in guests:
            guest.pull_plug()
        for guest in guests:
            guest.wait_briefly()
        for disk in disks_in(self._home.disks):
            self._wipe(disk)

    def _wipe(self, disk: Path) -> None:
        try:
            wipe_disk(disk)
        except OSError:
            _LOG.exception("cannot wipe %s", disk)

    def _watch(self, guest: Guest) -> None:
        status = guest.wait()
        with self._lock:
            if self._closing:
                return
            del self._guests[guest.instance.id]
            then = self._then.pop(guest.instance.id, None) or self._own_end(status)
        then(guest)

    def _own_end(self, status: int) -> Callable[[Guest], None]:
        """What follows when nobody but the guest asked for power-off."""
        if status == supervisor.POWEROFF_BY_GUEST:
            return lambda guest: self._powered_itself_off(guest.instance)
        if status == supervisor.REBOOT_BY_GUEST:
            return lambda guest: self.power_on(guest.instance)
        _LOG.error("a supervisor ended with status %s", status)
        return lambda guest: self._terminated(guest.instance, _HOST_FAILURE)

    def _powered_itself_off(self, instance: Any) -> None:
        if instance.instance_initiated_shutdown_behavior == "terminate":
            self._terminated(instance, _GUEST_SHUTDOWN)
        else:
            self._originals.stop(instance)
            _give_reason(instance, *_GUEST_SHUTDOWN)

    def _terminated(self, instance: Any, reason: tuple[str, str] | None = None) -> None:
        """Wipe first: who sees `terminated` finds no disk."""
        _set_state(instance, "shutting-down", 32)
        self._wipe(self._home.disks / instance.id)
        self._originals.terminate(instance)
        if reason is not None:
            _give_reason(instance, *reason)
        self._forget_old_consoles()

    def _forget_old_consoles(self) -> None:
        if self._home.consoles.is_symlink():
            return
        consoles = sorted(self._home.consoles.glob("i-*.log"), key=lambda file: file.lstat().st_mtime)
        running = set(self.running())
        for console in [file for file in consoles if file.stem not in running][:-KEPT_CONSOLES]:
            console.unlink(missing_ok=True)


def install(
    home: Home,
    hardware: Hardware,
    failure_at_start: Callable[[Any], tuple[str, str] | None] = lambda _instance: None,
) -> InstanceHost:
    """Hook a new host around moto's instances.

    Args:
        failure_at_start: the code and the words of the StateReason with which an instance ends instead of
            booting; None: it boots.
    """
    host = InstanceHost(home, hardware, Originals(Instance.terminate, Instance.stop), failure_at_start)

    def booting(run_instances: Callable[..., Any]) -> Callable[..., Any]:
        def run_and_boot(backend: Any, *args: Any, **kwargs: Any) -> Any:
            reservation = run_instances(backend, *args, **kwargs)
            for instance in reservation.instances:
                host.give_address(instance)
                host.power_on(instance)
            return reservation

        return run_and_boot

    def starting(start: Callable[..., Any]) -> Callable[..., Any]:
        def start_and_boot(instance: Any) -> Any:
            _require_alive(instance)
            before = start(instance)
            host.power_on(instance)
            return before

        return start_and_boot

    around(InstanceBackend, "run_instances", booting)
    around(Instance, "start", starting)
    around(Instance, "stop", lambda _original: lambda instance: host.stop(instance))
    around(Instance, "terminate", lambda _original: lambda instance: host.terminate(instance))
    around(Instance, "reboot", lambda _original: lambda instance: host.reboot(instance))
    return host


def _require_alive(instance: Any) -> None:
    if instance.state in ("shutting-down", "terminated"):
        message = f"The instance '{instance.id}' is not in a state from which it can be started or stopped."
        raise EC2ClientError("IncorrectInstanceState", message)


def _set_state(instance: Any, name: str, code: int) -> None:
    instance._state.name = name
    instance._state.code = code


def _give_reason(instance: Any, code: str, text: str) -> None:
    instance.state_reason = StateReason(f"{code}: {text}", code)
    instance._reason = text
