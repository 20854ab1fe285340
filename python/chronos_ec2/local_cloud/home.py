"""Where one embedded AWS keeps its files, and how its process is told from a later one with the same id."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from chronos_ec2.errors import LocalCloudDown


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running embedded AWS.

    Attributes:
        pid: the server's process.
        started: when that process began, as the kernel counts it; a recycled pid has another.
        port: its TCP port on 127.0.0.1.
        endpoint_url: what AWS_ENDPOINT_URL must be.
    """

    pid: int
    started: str
    port: int
    endpoint_url: str


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one embedded AWS."""

    path: Path

    @property
    def endpoint_file(self) -> Path:
        """Who serves, and where; there while the server runs."""
        return self.path / "endpoint.json"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / "server.log"

    @property
    def lock(self) -> Path:
        """Locked by the one server that may use this folder; empty, it marks the folder as taken."""
        return self.path / "server.lock"

    @property
    def control_lock(self) -> Path:
        """Locked by who starts or stops the server."""
        return self.path / "control.lock"

    @property
    def image(self) -> Path:
        """The machine image."""
        return self.path / "image"

    @property
    def disks(self) -> Path:
        """One folder an instance, as long as the instance has a disk."""
        return self.path / "instances"

    @property
    def consoles(self) -> Path:
        """Console output, one file an instance."""
        return self.path / "consoles"

    @property
    def clock_offset(self) -> Path:
        """Seconds that the clock of scheduled calls is ahead of this machine's; a test writes it."""
        return self.path / "clock-offset"

    @property
    def capacity(self) -> Path:
        """Which launches fail, and how; written by whoever wants that."""
        return self.path / "capacity.json"

    @property
    def scratch(self) -> Path:
        """The server's own temporary files."""
        return self.path / "tmp"

    @property
    def _staged_endpoint(self) -> Path:
        return self.endpoint_file.with_suffix(".tmp")

    def is_ours(self) -> bool:
        """Whether an embedded AWS has taken the folder."""
        try:
            mark = self.lock.lstat()
        except OSError:
            return False
        return stat.S_ISREG(mark.st_mode) and mark.st_size == 0

    def take(self) -> None:
        """Make the folder the embedded AWS's own: what lies under its names there is emptied and overwritten.

        Raises:
            LocalCloudDown: somebody else's files have those names, or a link has one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        names = (
            *(self.image, self.disks, self.consoles, self.scratch, self.log, self.lock, self.control_lock),
            *(self.endpoint_file, self._staged_endpoint, self.clock_offset),
        )
        there = [path for path in names if os.path.lexists(path)]
        is_ours = self.is_ours()  # looked at last: who takes the folder at the same moment marks it first
        wrong = [path.name for path in there if path.is_symlink() or not is_ours]
        if wrong:
            raise LocalCloudDown(
                f"{self.path} is not the embedded AWS's own folder: {', '.join(wrong)} in it would be "
                "emptied or overwritten; name an empty folder (CHRONOS_LOCAL_HOME), or take that away"
            )
        open_lock(self.lock).close()

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Publish the endpoint in one step."""
        with open_anew(self._staged_endpoint) as staged:
            staged.write(json.dumps(asdict(endpoint), indent=2).encode() + b"\n")
        self._staged_endpoint.replace(self.endpoint_file)

    def recorded_endpoint(self) -> Endpoint | None:
        """What the endpoint file says, alive or not."""
        try:
            fields = json.loads(self.endpoint_file.read_text())
            found = Endpoint(
                int(fields["pid"]), str(fields["started"]), int(fields["port"]), fields["endpoint_url"]
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return None
        # 0 and below name groups of processes, 1 is this machine's own.
        return found if found.pid > 1 else None

    def live_endpoint(self) -> Endpoint | None:
        """The endpoint when the very process that wrote it still runs."""
        endpoint = self.recorded_endpoint()
        if endpoint is None or process_start(endpoint.pid) != endpoint.started:
            return None
        return endpoint


def open_lock(path: Path) -> IO[str]:
    """Open a file for flock, made if need be and never written to.

    Raises:
        LocalCloudDown: a link has its name.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    except OSError as error:
        if not path.is_symlink():
            raise
        raise LocalCloudDown(
            f"{path} is a link, which the embedded AWS does not follow: remove it"
        ) from error


def open_anew(path: Path) -> IO[bytes]:
    """Open a new file for writing in the place of what has its name: a link goes itself."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's own words; None when there is none (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None if Path("/proc/self").is_dir() else _process_start_by_ps(pid)
    return None if fields[0] in (b"Z", b"X") else f"{_boot_id()}:{fields[19].decode()}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _process_start_by_ps(pid: int) -> str | None:
    answer = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C"},
    )
    return answer.stdout.strip() or None
