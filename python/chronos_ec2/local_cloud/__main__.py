"""`python -m chronos_ec2.local_cloud start|stop|env|status|interrupt`: the embedded AWS from a shell.

    start   start it as a daemon and wait until it answers; prints its address
    stop    end it and every instance on it
    env     print shell lines that point `aws` and every SDK at it: eval "$(... env)"
    status  say whether it runs, where, and how many instances run on it
    interrupt  take a spot instance back as EC2 does: a notice, and two minutes later the end

Exit codes: 0 done, 2 usage, 24 a program is missing, 29 it does not run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import urllib.error
import urllib.request
from pathlib import Path

from chronos_ec2.errors import ChronosError, UsageProblem
from chronos_ec2.local_cloud import control
from chronos_ec2.local_cloud.home import Endpoint


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "start":
                _start(options.home, options.port)
            case "stop":
                print("stopped" if control.stop(options.home) else "was not running", file=sys.stderr)
            case "interrupt":
                print(_interrupt(control.require_endpoint(options.home), options))
            case "env":
                print(shell_lines(control.require_endpoint(options.home)))
            case _:
                print(_status(control.require_endpoint(options.home)))
    except ChronosError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


def shell_lines(endpoint: Endpoint) -> str:
    """Shell lines for `eval`: the variables to set, and those of another account to drop."""
    variables = control.aws_environment(endpoint).items()
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables]
    return "\n".join([*exports, f"unset {' '.join(control.UNSET_FOR_LOCAL)}"])


def _start(home: Path | None, port: int | None) -> None:
    before = control.read_endpoint(home)
    endpoint = control.start(home, port)
    if before == endpoint:
        print("already running", file=sys.stderr)
    print(endpoint.endpoint_url)


def _status(endpoint: Endpoint) -> str:
    with urllib.request.urlopen(f"{endpoint.endpoint_url}/_chronos/status", timeout=10) as answer:
        running = json.load(answer)["running_instances"]
    return f"{endpoint.endpoint_url}  process {endpoint.pid}  {len(running)} instances running"


def _interrupt(endpoint: Endpoint, options: argparse.Namespace) -> str:
    asked = {
        "instance_id": options.instance,
        "rebalance": options.rebalance,
        "notice_seconds": options.notice_seconds,
    }
    url = f"{endpoint.endpoint_url}/_chronos/interrupt"
    request = urllib.request.Request(url, json.dumps(asked).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            done = json.load(answer)
    except urllib.error.HTTPError as error:
        raise UsageProblem(json.load(error)["error"]) from None
    if options.rebalance:
        return f"{done['instance_id']} is told that it may be taken back"
    return f"{done['instance_id']} is told that it is taken back at {done['time']}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chronos_ec2.local_cloud",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("start", "stop", "env", "status", "interrupt"))
    parser.add_argument(
        "--home", type=Path, help="its folder (default: $CHRONOS_LOCAL_HOME or .chronos/local)"
    )
    parser.add_argument("--instance", help="interrupt: which one (default: the only spot instance)")
    parser.add_argument("--rebalance", action="store_true", help="interrupt: only the hint that it may come")
    parser.add_argument(
        "--notice-seconds", type=float, default=120.0, help="interrupt: from the notice to the end"
    )
    parser.add_argument("--port", type=int, help="TCP port (default: $CHRONOS_LOCAL_PORT or a free one)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
