"""One guest: its disk, its console, its metadata service and the supervisor that runs it."""

from __future__ import annotations

import errno
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from chronos_ec2.local_cloud import supervisor
from chronos_ec2.local_cloud.disk import make_disk, note_start, per_boot_command, user_data_command
from chronos_ec2.local_cloud.image import base_interpreter
from chronos_ec2.local_cloud.metadata import MetadataService, Tree
from chronos_ec2.local_cloud.metadata_tree import RoleCredentials, metadata_tree, user_data_of

_EXIT_PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What every guest of a server shares.

    Attributes:
        binaries: the image's bin folder, the guest's whole PATH.
        endpoint_url: the embedded AWS.
        grace_seconds: how long a guest may take between SIGTERM and SIGKILL at power-off.
    """

    binaries: Path
    endpoint_url: str
    grace_seconds: float


class Guest:
    """A guest from power-on to power-off.

    Args:
        instance: moto's instance.
        disk: its private folder; made here unless it is there from before a stop.
        console: the file that its output is appended to.

    Attributes:
        notices: what its metadata service says beside the usual, by path; 404 otherwise.

    Raises:
        OSError: it cannot be started, or a link has taken the place of its disk or console.
    """

    def __init__(self, instance: Any, disk: Path, console: Path, hardware: Hardware) -> None:
        for place in (disk.parent, disk, console.parent, console):
            if place.is_symlink():
                raise OSError(errno.ELOOP, "a link has taken its place", str(place))
        self.instance = instance
        self.disk = disk
        first_boot = not disk.exists()
        if first_boot:
            make_disk(disk, user_data_of(instance))
            # As cloud-init has it: what the user data prints goes to a file and to the console.
            (disk / "var/log").mkdir()
            (disk / "var/log/cloud-init-output.log").symlink_to(console.absolute())
        note_start(disk, time.time())
        self.notices: dict[str, str] = {}
        self._credentials = RoleCredentials(instance)
        self._metadata = MetadataService(self._tree)
        try:
            self._process = self._power_on(console, hardware, first_boot)
        except OSError:
            self._metadata.close()
            raise

    def _tree(self) -> Tree:
        notices: Tree = {path: partial(str, text) for path, text in self.notices.items()}
        return metadata_tree(self.instance, self._credentials) | notices

    def _power_on(self, console: Path, hardware: Hardware, first_boot: bool) -> subprocess.Popen[bytes]:
        command = user_data_command(self.disk) if first_boot else per_boot_command(self.disk)
        with console.open("ab") as output:
            return subprocess.Popen(
                [
                    *(base_interpreter(), "-I", "-S", supervisor.__file__),
                    *(str(self.disk), str(hardware.grace_seconds), *command),
                ],
                env=guest_environment(self.disk, hardware, self._metadata.url),
                cwd=self.disk,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def supervisor_pid(self) -> int:
        """The process that all of the guest's descend from."""
        return self._process.pid

    def press_power_button(self) -> None:
        """Ask for power-off: SIGTERM to everything, a grace period, SIGKILL."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"poweroff\n")
            self._process.stdin.flush()
        except OSError:
            return  # it is off already

    def pull_plug(self) -> None:
        """Power off without a grace period."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        """Block until power is off; the supervisor's exit status. Nothing of the guest runs afterwards."""
        status = self._process.wait()
        self._metadata.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status

    def wait_briefly(self) -> None:
        """Wait for power-off for a few seconds, then kill the supervisor too."""
        try:
            self._process.wait(_EXIT_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


def guest_environment(disk: Path, hardware: Hardware, metadata_url: str) -> dict[str, str]:
    """The guest's whole environment: nothing of this machine's, and no credentials."""
    return {
        "PATH": str(hardware.binaries),
        "HOME": str(disk / "root"),
        "TMPDIR": str(disk / "tmp"),
        "LANG": "C.UTF-8",
        "CHRONOS_ROOT": str(disk),
        "AWS_ENDPOINT_URL": hardware.endpoint_url,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_url,
    }
