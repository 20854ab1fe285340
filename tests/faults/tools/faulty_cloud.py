"""The embedded AWS as it is, with switches for tests in its home.

    guest-endpoint   a URL: guests that boot from now on reach AWS by it (a fault proxy)
    guest-programs   a folder: guests that boot from now on find its programs before the image's own
    asleep           guests that boot from now on run no user data: they only "run", and bill
    guest-clock      libfaketime's library: guests that boot from now on have the clock that run/clock says
    guest-disk-megabytes   guests that boot from now on have a file system of that size, and memory as large
    credentials-renewed    the credentials of a guest's role are others from now on
    metadata-gone    metadata services cut every connection
    ledger.jsonl     gets a line for each guest that has had power: {"id", "seconds"}

Credentials last for as long as a client thinks of renewing them at every call.

Usage: faulty_cloud.py HOME PORT
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from chronos_ec2.local_cloud import disk, guest, metadata_tree, server


def main(home: str, port: str) -> int:
    """Serve until stopped, as `chronos_ec2.local_cloud.server` does."""
    environment, command, make_disk = guest.guest_environment, disk.user_data_command, disk.make_disk
    tree, document = guest.Guest._tree, metadata_tree.RoleCredentials.document
    clock, megabytes = Path(home) / "guest-clock", Path(home) / "guest-disk-megabytes"
    wait, ledger = guest.Guest.wait, Path(home) / "ledger.jsonl"
    renewed, gone = Path(home) / "credentials-renewed", Path(home) / "metadata-gone"
    endpoint, asleep = Path(home) / "guest-endpoint", Path(home) / "asleep"
    programs = Path(home) / "guest-programs"

    def guest_environment(place: Path, hardware: guest.Hardware, metadata_url: str) -> dict[str, str]:
        found = environment(place, hardware, metadata_url)
        if endpoint.exists():
            found["AWS_ENDPOINT_URL"] = endpoint.read_text()
        if programs.exists():
            found["PATH"] = f"{programs.read_text()}:{found['PATH']}"
        if clock.exists():
            found["LD_PRELOAD"] = clock.read_text()
            found["FAKETIME_TIMESTAMP_FILE"] = str(place / "run" / "clock")
            found |= {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_CACHE_DURATION": "1"}
        return found

    def make_small_disk(place: Path, user_data: bytes) -> None:
        if megabytes.exists():
            size = f"size={megabytes.read_text()}m"
            for folder in (place, place / "dev" / "shm"):
                folder.mkdir(parents=True)
                subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
        make_disk(place, user_data)
        (place / "run" / "clock").write_text("+0s\n")

    def served_tree(self: Any) -> Any:
        if gone.exists():
            raise ConnectionAbortedError
        return tree(self)

    def renewed_document(self: Any, role: Any) -> str:
        if renewed.exists() and getattr(self, "renewed", None) != renewed.stat().st_mtime_ns:
            self.renewed, self._current = renewed.stat().st_mtime_ns, None
        return document(self, role)

    def waited(self: Any) -> int:
        on = float((self.disk / "proc" / "stat").read_text().split()[1])
        status = int(wait(self))
        if ledger.exists():
            with ledger.open("a") as file:
                file.write(json.dumps({"id": self.instance.id, "seconds": time.time() - on}) + "\n")
        return status

    def user_data_command(place: Path) -> list[str]:
        return [] if asleep.exists() else command(place)

    setattr(guest, "guest_environment", guest_environment)  # noqa: B010
    setattr(guest, "user_data_command", user_data_command)  # noqa: B010
    setattr(guest, "make_disk", make_small_disk)  # noqa: B010
    setattr(guest.Guest, "wait", waited)  # noqa: B010
    setattr(guest.Guest, "_tree", served_tree)  # noqa: B010
    setattr(metadata_tree.RoleCredentials, "document", renewed_document)  # noqa: B010
    setattr(metadata_tree, "CREDENTIALS_SECONDS", 720)  # noqa: B010
    setattr(metadata_tree, "RENEW_BELOW", timedelta(0))  # noqa: B010
    return server.main([home, port])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
