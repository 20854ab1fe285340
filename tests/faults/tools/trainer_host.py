"""Runs the Chronos trainer without its start-up: its libraries are imported once, a run is a fork.

Usage: trainer_host.py, with a request a line on stdin:

    {"argv": [...], "folder": DIR, "processes": N, "port": P}

Answers with the processes' ids when they run, and with their exit statuses when all have ended. What they
print is in DIR/out and DIR/err; of several processes the first one's alone is kept.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer requests until stdin ends."""
    from chronos_ec2.instance.trainers.chronos import __main__ as trainer

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pids = [_start(trainer.main, asked, rank) for rank in range(asked["processes"])]
        print(json.dumps(pids), flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(statuses), flush=True)


def _start(train: Any, asked: dict[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if asked["processes"] > 1:
            os.environ.update(
                {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(asked["processes"]),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(asked["port"]),
                }
            )
        for name, number in (("out", 1), ("err", 2)):
            path = Path(asked["folder"]) / name if rank == 0 else Path(os.devnull)
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        status = train(asked["argv"])
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
