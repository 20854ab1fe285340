"""The embedded AWS as it is, with three switches for tests in its home.

    guest-endpoint   a URL: guests that boot from now on reach AWS by it (a fault proxy)
    guest-programs   a folder: guests that boot from now on find its programs before the image's own
    asleep           guests that boot from now on run no user data: they only "run", and bill

Usage: faulty_cloud.py HOME PORT
"""

from __future__ import annotations

import sys
from pathlib import Path

from chronos_ec2.local_cloud import disk, guest, server


def main(home: str, port: str) -> int:
    """Serve until stopped, as `chronos_ec2.local_cloud.server` does."""
    environment, command = guest.guest_environment, disk.user_data_command
    endpoint, asleep = Path(home) / "guest-endpoint", Path(home) / "asleep"
    programs = Path(home) / "guest-programs"

    def guest_environment(place: Path, hardware: guest.Hardware, metadata_url: str) -> dict[str, str]:
        found = environment(place, hardware, metadata_url)
        if endpoint.exists():
            found["AWS_ENDPOINT_URL"] = endpoint.read_text()
        if programs.exists():
            found["PATH"] = f"{programs.read_text()}:{found['PATH']}"
        return found

    def user_data_command(place: Path) -> list[str]:
        return [] if asleep.exists() else command(place)

    setattr(guest, "guest_environment", guest_environment)  # noqa: B010
    setattr(guest, "user_data_command", user_data_command)  # noqa: B010
    return server.main([home, port])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
