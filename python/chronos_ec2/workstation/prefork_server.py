"""Runs `aws` and `python -m MODULE` calls without their start-up: all is imported once, a call is a fork.

The AWS CLI needs most of half a second to start, and a launch makes twenty calls. The code that runs is the
real awscli and the real modules, over real HTTP; only the imports, the AWS CLI's driver and the service
models are made before the first call. A call ends when its client does: the fork dies when the client's
socket closes, as a program dies with a killed process group. Calls that come while this loads wait for it.

    python -m chronos_ec2.workstation.prefork_server SOCKET [PARENT]

PARENT is the process that this belongs to: it ends soon after that one has. It outlives the signals that the
parent and its children share, since what the parent does on its way out needs it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any, Final

SERVICES: Final = ("s3", "ec2", "sts", "ssm", "cloudformation", "scheduler")
MODELS: Final = ("paginators-1", "waiters-2")
"""What the AWS CLI reads of a service beside its operations."""
PROGRAMS: Final = (
    "chronos_ec2.workstation.settings",
    "chronos_ec2.workstation.estimate",
    "chronos_ec2.workstation.launch_files",
    "chronos_ec2.workstation.script_files",
)
PARENT_LOOK_SECONDS: Final = 0.5


class PreforkServer:
    """Accepts calls on a Unix socket and forks one child a call."""

    def __init__(self, path: str) -> None:
        # Of what this makes nothing goes again; a collection in a child would touch, and so copy, every page.
        gc.disable()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(256)
        self._aws = _WarmAws()  # first: the AWS CLI brings a botocore of its own, and the programs do with it
        for module in PROGRAMS:
            importlib.import_module(module)
        # what `-m` runs must run as if imported for the first time
        for module in PROGRAMS:
            sys.modules.pop(module)

    def serve(self) -> None:
        """Serve until killed."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            link, _ = self._listener.accept()
            if os.fork() == 0:
                self._listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os._exit(self._answer(link))
            link.close()

    def _answer(self, link: socket.socket) -> int:
        try:
            run = self._take(link)
            threading.Thread(target=_die_with, args=(link,), daemon=True).start()
            status = _status_of(run)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(2, f"prefork: {error!r}\n".encode())
            status = 255
        with contextlib.suppress(OSError):
            link.send(bytes([status]))
        return status

    def _take(self, link: socket.socket) -> Callable[[], Any]:
        header, streams, _, _ = socket.recv_fds(link, 4, 3)
        text = b""
        size = int.from_bytes(header, "big")
        while len(text) < size and (part := link.recv(size - len(text))):
            text += part
        folder, words, environ = text.split(b"\x01", 2)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            if stream > 2:
                os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(
            dict(os.fsdecode(pair).split("=", 1) for pair in environ.split(b"\x00") if b"=" in pair)
        )
        program, *arguments = (os.fsdecode(word) for word in words.split(b"\x00"))
        return lambda: self._run(program, arguments)

    def _run(self, program: str, arguments: list[str]) -> Any:
        if program == "aws":
            sys.argv = ["aws", *arguments]
            return self._aws.driver().main(arguments)
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            return runpy.run_module(arguments[1], run_name="__main__", alter_sys=True) and 0
        return os.execv(sys.executable, [sys.executable, *arguments])


def _die_with(link: socket.socket) -> None:
    if not link.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


def _status_of(run: Callable[[], Any]) -> int:
    try:
        status = run()
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return int(status or 0) & 255


def _session() -> Any:
    import awscli.clidriver as cli  # type: ignore[import-untyped]
    import botocore.session

    return botocore.session.Session(cli.EnvironmentVariables)


def _driver(loader: Any) -> Any:
    import awscli.clidriver as cli

    session = _session()
    session.register_component("data_loader", loader)
    cli._set_user_agent_for_session(session)
    cli.load_plugins(
        session.full_config.get("plugins", {}), event_hooks=session.get_component("event_emitter")
    )
    return cli.CLIDriver(session=session)


class _WarmAws:
    """The AWS CLI's driver, with the models of the services in its cache."""

    def __init__(self) -> None:
        first = _session()
        from botocore.exceptions import DataNotFoundError

        for service in SERVICES:
            first.create_client(
                service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
            )
        self._loader = first.get_component("data_loader")
        for service, model in product(SERVICES, MODELS):
            with contextlib.suppress(DataNotFoundError):  # not every service has both
                self._loader.load_service_model(service, model)
        self._driver = _driver(self._loader)
        commands = self._driver._get_command_table()
        for service in ("s3api", "ec2"):
            commands[service]._get_command_table()

    def driver(self) -> Any:
        """The driver as this process's environment has it, which it reads at each call."""
        session = self._driver.session
        for read_once in ("_profile", "_config", "_profile_map"):
            setattr(session, read_once, None)
        if session.full_config.get("plugins"):  # they change the tables
            return _driver(self._loader)
        return self._driver


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_SECONDS)
    os._exit(0)


def main(argv: list[str]) -> None:
    """Serve on a socket, for one process or until killed."""
    if len(argv) > 1:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(int(argv[1]),), daemon=True).start()
    PreforkServer(argv[0]).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
