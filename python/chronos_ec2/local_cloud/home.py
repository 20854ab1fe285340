"""Where one embedded AWS keeps its files, and how its process is told from a later one with the same id."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

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
        """Locked by the one server that may use this folder."""
        return self.path / "server.lock"

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

    def take(self) -> None:
        """Make the folder the embedded AWS's own: what lies under its names there is emptied and overwritten.

        Raises:
            LocalCloudDown: somebody else's files have those names, or a link has one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        names = (self.image, self.disks, self.consoles, self.scratch, self.log)
        is_ours = self.lock.exists() and not self.lock.is_symlink()
        wrong = [path.name for path in names if path.is_symlink() or (path.exists() and not is_ours)]
        if wrong:
            raise LocalCloudDown(
                f"{self.path} is not the embedded AWS's own folder: {', '.join(wrong)} in it would be "
                "emptied; name an empty folder (CHRONOS_LOCAL_HOME), or take that away"
            )
        self.lock.touch()

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Publish the endpoint in one step."""
        staged = self.endpoint_file.with_suffix(".tmp")
        staged.write_text(json.dumps(asdict(endpoint), indent=2) + "\n")
        staged.replace(self.endpoint_file)

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
