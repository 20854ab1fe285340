"""Start, stop and find the embedded AWS. Imports nothing heavy: the server is another process."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from chronos_ec2.errors import LocalCloudDown, ToolMissing, UsageProblem
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.local_cloud.home import Endpoint, Home, open_anew, open_lock, process_start
from chronos_ec2.local_cloud.supervisor import signal_process

HOME_VARIABLE: Final = "CHRONOS_LOCAL_HOME"
PORT_VARIABLE: Final = "CHRONOS_LOCAL_PORT"
REGION: Final = "us-east-1"
UNSET_FOR_LOCAL: Final = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)
_START_PATIENCE_SECONDS: Final = 180.0
_STOP_PATIENCE_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 15
_FOREIGN_PREFIXES: Final = ("AWS_", "MOTO_", "PYTHONPATH", "PYTHONHOME")


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """$CHRONOS_LOCAL_HOME, or .chronos/local in the repository (else in the working folder)."""
    if environ.get(HOME_VARIABLE):
        return Path(environ[HOME_VARIABLE])
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    return root / ".chronos" / "local"


def read_endpoint(home: Path | None = None) -> Endpoint | None:
    """The running embedded AWS of this home, or None."""
    return _home(home).live_endpoint()


def require_endpoint(home: Path | None = None) -> Endpoint:
    """The running embedded AWS of this home.

    Raises:
        LocalCloudDown: there is none.
    """
    endpoint = read_endpoint(home)
    if endpoint is None:
        raise LocalCloudDown(
            f"the embedded AWS is not running (home {_home(home).path}); start it with invoke local.start, "
            "or python -m chronos_ec2.local_cloud start"
        )
    return endpoint


def start(home: Path | None = None, port: int | None = None) -> Endpoint:
    """Start the embedded AWS as a daemon and wait until it answers; one that runs is left as it is.

    Args:
        home: its folder; `default_home()` when None.
        port: on 127.0.0.1; $CHRONOS_LOCAL_PORT or a free one when None.

    Raises:
        LocalCloudDown: it did not come up (the message ends with its log's last lines), or the folder is
            another's, or none that can be written.
        ToolMissing: this machine lacks programs that the instances need.
    """
    place = _home(home)
    with _folder_errors(place):
        place.take()
        with _one_at_a_time(place):
            running = place.live_endpoint()
            if running is not None:
                return running
            return _wait_until_up(place, _spawn(place, _port(port)))


def stop(home: Path | None = None) -> bool:
    """Stop the embedded AWS with all its instances, and wait until they are gone. False: none ran.

    In a folder that no embedded AWS has taken, nothing is touched.

    Raises:
        LocalCloudDown: the process does not end, a link has the lock's name, or the folder may not be
            written.
    """
    place = _home(home)
    if not place.is_ours():
        return False
    with _folder_errors(place), _one_at_a_time(place):
        endpoint = place.live_endpoint()
        if endpoint is None:
            place.endpoint_file.unlink(missing_ok=True)
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _ended_after(endpoint, number):
                place.endpoint_file.unlink(missing_ok=True)
                return True
    raise LocalCloudDown(f"process {endpoint.pid} of the embedded AWS does not end; see {place.log}")


def send_signal(endpoint: Endpoint, number: signal.Signals) -> None:
    """Signal the very process that serves: its id may have become another's since it was looked at."""
    with suppress(ProcessLookupError):
        signal_process(endpoint.pid, endpoint.started, number, began=process_start)


def aws_environment(endpoint: Endpoint) -> dict[str, str]:
    """The variables that point any AWS SDK or CLI at the embedded AWS."""
    return {
        "AWS_ENDPOINT_URL": endpoint.endpoint_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        # A proxy of the user's is for the world outside, not for this machine.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _home(home: Path | None) -> Home:
    return Home((home or default_home()).expanduser().absolute())


def _port(port: int | None) -> int:
    if port is not None:
        return port
    text = os.environ.get(PORT_VARIABLE) or "0"
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageProblem(f"{PORT_VARIABLE} is no port number: {text!r}")
    return int(text)


@contextmanager
def _folder_errors(home: Home) -> Iterator[None]:
    """Name the folder that cannot be used, and what is to be done about it."""
    try:
        yield
    except OSError as error:
        # `File exists` is what making a folder says of a file.
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise LocalCloudDown(
            f"{home.path} cannot be the embedded AWS's folder: {why}; name another one (CHRONOS_LOCAL_HOME)"
        ) from error


@contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    with open_lock(home.control_lock) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _spawn(home: Home, port: int) -> subprocess.Popen[bytes]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)
    }
    with open_anew(home.log) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "chronos_ec2.local_cloud.server", str(home.path), str(port)],
            cwd=home.path,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_up(home: Home, process: subprocess.Popen[bytes]) -> Endpoint:
    end = time.monotonic() + _START_PATIENCE_SECONDS
    while time.monotonic() < end:
        endpoint = home.live_endpoint()
        if endpoint is not None and endpoint.pid == process.pid:
            process.returncode = 0  # it outlives this process on purpose
            return endpoint
        if process.poll() is not None:
            break
        time.sleep(_POLL_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    last_lines = "\n".join(home.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    if process.returncode == ExitCode.TOOL_MISSING:
        raise ToolMissing(last_lines.removeprefix("error: "))
    raise LocalCloudDown(f"the embedded AWS did not start; {home.log} ends with:\n{last_lines}")


def _ended_after(endpoint: Endpoint, number: signal.Signals) -> bool:
    send_signal(endpoint, number)
    end = time.monotonic() + _STOP_PATIENCE_SECONDS
    while time.monotonic() < end:
        if process_start(endpoint.pid) != endpoint.started:
            return True
        time.sleep(_POLL_SECONDS)
    return False
