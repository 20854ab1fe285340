"""The embedded AWS as it is, with two switches for tests in its home.

    guest-endpoint   a URL: guests that boot from now on reach AWS by it (a fault proxy)
    asleep           guests that boot from now on run no user data: they only "run", and bill

Usage: faulty_cloud.py HOME PORT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from chronos_ec2.local_cloud import guest, server


def main(home: str, port: str) -> int:
    """Serve until stopped, as `chronos_ec2.local_cloud.server` does."""
    environment, command = guest.guest_environment, guest.user_data_command
    endpoint, asleep = Path(home) / "guest-endpoint", Path(home) / "asleep"

    def guest_environment(*words: Any) -> dict[str, str]:
        found = environment(*words)
        return found | {"AWS_ENDPOINT_URL": endpoint.read_text()} if endpoint.exists() else found

    def user_data_command(disk: Path) -> list[str]:
        return [] if asleep.exists() else command(disk)

    guest.guest_environment = guest_environment
    guest.user_data_command = user_data_command
    return server.main([home, port])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
