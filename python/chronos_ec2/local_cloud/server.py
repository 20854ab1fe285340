"""The embedded AWS's process: moto's API with the gaps filled, and the instance host, on 127.0.0.1.

Started by `control.start`; `python -m chronos_ec2.local_cloud.server HOME PORT` runs it in the foreground.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

from chronos_ec2.errors import ChronosError, LocalCloudDown
from chronos_ec2.local_cloud.disk import disks_in, wipe_disk
from chronos_ec2.local_cloud.gaps import images
from chronos_ec2.local_cloud.home import Endpoint, Home, open_lock, process_start
from chronos_ec2.local_cloud.image import build_image

STATUS_PATH: Final = "/_chronos/status"
GRACE_VARIABLE: Final = "CHRONOS_LOCAL_SHUTDOWN_GRACE"
_DEFAULT_GRACE_SECONDS: Final = 3.0

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(home: Home, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then kill all guests and wipe their disks.

    Raises:
        LocalCloudDown: another server uses this home.
        ToolMissing: the machine image cannot be made.
    """
    home.take()
    lock = _lock_home(home)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.set())
    _prepare(home)
    binaries = build_image(home.image)
    images.select_images()
    server, host = _assemble(home, binaries, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.port}"
    home.write_endpoint(Endpoint(os.getpid(), process_start(os.getpid()) or "", server.port, url))
    try:
        stopping.wait()
    finally:
        host.close()
        home.endpoint_file.unlink(missing_ok=True)
        shutil.rmtree(home.scratch, ignore_errors=True)
        lock.close()


def _lock_home(home: Home) -> IO[str]:
    lock = open_lock(home.lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise LocalCloudDown(f"another embedded AWS already uses {home.path}") from error
    return lock


def _prepare(home: Home) -> None:
    """Clear what a killed server left, and keep temporary files in the home."""
    home.endpoint_file.unlink(missing_ok=True)
    home.clock_offset.unlink(missing_ok=True)
    shutil.rmtree(home.scratch, ignore_errors=True)
    shutil.rmtree(home.consoles, ignore_errors=True)
    home.disks.mkdir(exist_ok=True)
    for disk in disks_in(home.disks):
        wipe_disk(disk)
    home.scratch.mkdir()
    tempfile.tempdir = str(home.scratch)


def _assemble(home: Home, binaries: Path, port: int) -> tuple[Any, Any]:
    """Imports moto, which reads its settings from the environment only once."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    from chronos_ec2.local_cloud import instance_host, interruptions
    from chronos_ec2.local_cloud.gaps import (
        access_control,
        capacity,
        client_token,
        conditional_writes,
        console_output,
        instance_profiles,
        placement_groups,
        pricing,
        quotas,
        ranged_reads,
        schedules,
        spot_prices,
        spot_requests,
        stack_deletion,
        stack_kinds,
        stack_properties,
        stack_update,
    )
    from chronos_ec2.local_cloud.guest import Hardware

    dispatcher = DomainDispatcherApplication(create_backend_app)
    # moto lists its folder for it at every request, which is a third of a request's work.
    setattr(dispatcher, "get_backend_for_host", lru_cache(dispatcher.get_backend_for_host))  # noqa: B010
    interruption_page = interruptions.InterruptionPage(pricing.PriceListService(dispatcher))
    answer = _StatusPage(interruption_page)
    server = make_server("127.0.0.1", port, answer, threaded=True, request_handler=MotoRequestHandler)
    grace = float(os.environ.get(GRACE_VARIABLE) or _DEFAULT_GRACE_SECONDS)
    hardware = Hardware(binaries, f"http://127.0.0.1:{server.port}", grace)
    spot_requests.install()
    placement_groups.install()
    instance_profiles.install()
    host = instance_host.install(home, hardware, capacity.install(home.capacity))
    answer.running = host.running
    interruption_page.host = host
    access_control.install()
    conditional_writes.install()
    ranged_reads.install()
    client_token.install()
    stack_kinds.install()
    stack_deletion.install()
    stack_update.install()
    stack_properties.install()
    quotas.install()
    spot_prices.install()
    console_output.install(host.console)
    schedules.install(hardware.endpoint_url, home.clock_offset)
    images.install()
    return server, host


class _StatusPage:
    """Answers the status path itself and passes everything else on."""

    def __init__(self, application: Wsgi) -> None:
        self._application = application
        self.running: Callable[[], list[str]] = list

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != STATUS_PATH:
            return self._application(environ, start_response)
        body = json.dumps({"pid": os.getpid(), "running_instances": self.running()}).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def main(arguments: list[str]) -> int:
    """Serve HOME on PORT (0: a free one)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    home, port = arguments
    try:
        serve(Home(Path(home).resolve()), int(port))
    except ChronosError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(LocalCloudDown.exit_code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
