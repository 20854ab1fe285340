"""One virtual machine's outermost process: it boots a guest and makes sure that all of it dies.

Run as a plain script by the instance host, with the guest's environment and the console as stdout:
`python -I -S supervisor.py ROOT GRACE_SECONDS COMMAND...`. Standard library only, no third file.

- It is a child subreaper (Linux): a process that leaves its session or is orphaned stays its descendant.
- Its stdin is a pipe from the host: `poweroff` or `reboot` with a grace period, end of file kills at once,
  so guests die even when the host is killed with SIGKILL.
- The guest asks for power through the FIFO ROOT/run/power: `poweroff SECONDS`, `reboot SECONDS`, `cancel`.
  It is kept here, so a scheduled power-off fires whatever the guest does, and by the guest's wall clock, as
  systemd-logind does it: a clock that jumps moves it. That clock is this machine's plus the seconds in
  ROOT/run/clock-offset, which the image's `date -s` writes.
- The guest cannot turn this machine off or set its clock: it can neither gain privileges (no_new_privs) nor
  call reboot(2) or settimeofday(2) (CAP_SYS_BOOT and CAP_SYS_TIME are dropped), and where the kernel allows a
  mount namespace, this machine's power programs and the sockets that they speak to are hidden from it.

The exit status tells the host who asked; see the constants.
"""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

ASKED_BY_HOST = 0
POWEROFF_BY_GUEST = 40
REBOOT_BY_GUEST = 41

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 36, 38, 24
_CAP_SYS_BOOT, _CAP_SYS_TIME = 22, 25
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_POWER_NAMES = ("shutdown", "poweroff", "halt", "reboot", "init", "telinit", "systemctl", "loginctl")
POWER_CONTROLS = (
    *(f"{folder}/{name}" for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin") for name in _POWER_NAMES),
    *("/run/dbus/system_bus_socket", "/run/systemd/private", "/run/initctl", "/dev/initctl"),
)
_POLL_SECONDS = 0.02
_LONGEST_WORDS = 200
_SECONDS = re.compile("[0-9]{1,12}")
_LONGEST_SLEEP_SECONDS = 1.0
_LINUX = sys.platform == "linux"


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def hide(paths: Iterable[str]) -> bool:
    """Cover files with /dev/null in a mount namespace of this process's own. False: the kernel forbids it."""
    if not _LINUX:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNS) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    hidden: bool = libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
    for path in {os.path.realpath(path) for path in paths if Path(path).exists()}:
        hidden = libc.mount(b"/dev/null", path.encode(), None, _MS_BIND, None) == 0 and hidden
    return hidden


def may_hide() -> bool:
    """Whether `hide` works here, tried in a child: a user namespace without a user map cannot be left."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if hide(()) else 1)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def guest_time(root: str) -> float:
    """The guest's wall clock, in seconds since 1970."""
    try:
        return time.time() + float((Path(root) / "run" / "clock-offset").read_text())
    except (OSError, ValueError):
        return time.time()


def _table() -> dict[int, tuple[int, str]]:
    """Parent of every process, and when it began."""
    if not _LINUX:
        return _rows_of_ps("-ax")
    found = {pid: _stat(pid) for pid in (int(process.name) for process in Path("/proc").glob("[0-9]*"))}
    return {pid: stat for pid, stat in found.items() if stat is not None}


def _rows_of_ps(*which: str) -> dict[int, tuple[int, str]]:
    command = ["ps", *which, "-o", "pid=,ppid=,lstart="]
    listing = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    rows = (line.split() for line in listing.stdout.splitlines())
    return {int(pid): (int(parent), " ".join(began)) for pid, parent, *began in rows}


def _stat(pid: int) -> tuple[int, str] | None:
    if not _LINUX:
        return _rows_of_ps("-p", str(pid)).get(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None  # it ended between the listing and the look
    return int(fields[1]), fields[19].decode()


def _descendants() -> dict[int, str]:
    """Every process below this one, and when it began."""
    table = _table()
    found: dict[int, str] = {}
    fresh = {os.getpid()}
    while fresh:
        fresh = {pid for pid, (parent, _) in table.items() if parent in fresh} - set(found)
        found |= {pid: table[pid][1] for pid in fresh}
    return found


def _reap() -> bool:
    """Collect the dead. False when no child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal_all(number: int) -> None:
    for pid, began in _descendants().items():
        try:
            signal_process(pid, began, number)
        except (ProcessLookupError, PermissionError):
            continue


def process_start(pid: int) -> str | None:
    """When a process began, in clock ticks since boot (off Linux, as ps says it); None when there is none."""
    stat = _stat(pid)
    return None if stat is None else stat[1]


def signal_process(
    pid: int, started: str, number: int, began: Callable[[int], str | None] = process_start
) -> None:
    """Signal a process, unless its id has become that of one that began at another time.

    Where the system has handles of processes, none can take its place between that look and the signal.

    Args:
        started: when the one that is meant began.
        began: tells when the one that has the id now began, in the same words.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # this system has none
        if began(pid) == started:
            os.kill(pid, number)
        return
    try:
        if began(pid) == started:
            signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def kill_everything(grace: float) -> None:
    """SIGTERM to every descendant, `grace` seconds, then SIGKILL until none is left."""
    if grace > 0:
        _signal_all(signal.SIGTERM)
        end = time.monotonic() + grace
        while _reap() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
    while _reap():
        _signal_all(signal.SIGKILL)
        time.sleep(_POLL_SECONDS / 4)


def say(text: str) -> None:
    """Write a line to the console, as a kernel would."""
    os.write(1, f"{text}\n".encode())


class Machine:
    """The running guest and the power-off that may be scheduled for it."""

    def __init__(self, root: str, grace: float) -> None:
        self._root = root
        self._grace = grace
        self._deadline: float | None = None
        self._exit_code = POWEROFF_BY_GUEST
        self._pending = b""
        fifo = Path(root) / "run" / "power"
        fifo.parent.mkdir(exist_ok=True)
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._waker, wake = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def boot(self, command: list[str], root: str) -> None:
        """Start the guest's first process in a session of its own."""
        hides = may_hide()

        def first_steps() -> None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                if signal.getsignal(number) is not signal.SIG_DFL:
                    signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)
            if hides:
                hide(POWER_CONTROLS)

        subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=first_steps
        )

    def run(self) -> int:
        """Serve until power goes off; returns the exit status for the host."""
        with selectors.DefaultSelector() as selector:
            for source in (0, self._fifo, self._waker):
                selector.register(source, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(self._patience()):
                    if key.fd == 0:
                        return self._obey_host()
                    self._listen(key.fd)
                _reap()
                if self._deadline is not None and guest_time(self._root) >= self._deadline:
                    say("[  OK  ] Reached target Power-Off: the guest asked for it.")
                    kill_everything(self._grace)
                    return self._exit_code

    def _patience(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, min(self._deadline - guest_time(self._root), _LONGEST_SLEEP_SECONDS))

    def _obey_host(self) -> int:
        asked = os.read(0, 64)
        say("[  OK  ] Reached target Power-Off: the host asked for it.")
        kill_everything(self._grace if asked else 0.0)
        return ASKED_BY_HOST

    def _listen(self, source: int) -> None:
        text = os.read(source, 4096)
        if source == self._waker:
            return
        *lines, rest = (self._pending + text).split(b"\n")
        self._pending = rest[-_LONGEST_WORDS:]
        for line in lines:
            self._obey_guest(line.decode(errors="replace").split())

    def _obey_guest(self, words: list[str]) -> None:
        match words:
            case ["cancel"]:
                self._deadline = None
            case ["poweroff" | "reboot" as verb, seconds] if _SECONDS.fullmatch(seconds):
                self._deadline = guest_time(self._root) + int(seconds)
                self._exit_code = POWEROFF_BY_GUEST if verb == "poweroff" else REBOOT_BY_GUEST
            case _:
                say(f"power: cannot read {words!r}")


def main(arguments: list[str]) -> int:
    """Boot COMMAND and serve it until its power goes off."""
    root, grace, *command = arguments
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in (_CAP_SYS_BOOT, _CAP_SYS_TIME):
        _prctl(_PR_CAPBSET_DROP, capability)

    def stop(_number: int, _frame: FrameType | None) -> None:
        kill_everything(0.0)
        os._exit(ASKED_BY_HOST)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine = Machine(root, float(grace))
    say("Booting.")
    if command:
        machine.boot(command, root)
    else:
        say("cloud-init: the user data is no #! script; nothing to run.")
    return machine.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
