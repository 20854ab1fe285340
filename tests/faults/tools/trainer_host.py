"""Runs the Chronos trainer without its start-up: its libraries are imported once, a run is a fork.

Usage: trainer_host.py, with a request a line on stdin:

    {"argv": [...], "folder": DIR, "processes": N, "port": P, "no_memory_before": STEP or null}

Answers with the processes' ids when they run, and with their exit statuses when all have ended. What they
print is in DIR/out and DIR/err; of several processes the first one's alone is kept.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

LATE: Final = ("pandas", "torch._dynamo")
"""What a training imports on its way, for its data and when it is not alone: seconds in each process."""


def main() -> None:
    """Answer requests until stdin ends."""
    from chronos_ec2.instance.trainers.chronos import __main__ as trainer

    for module in LATE:
        importlib.import_module(module)
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
        if asked["no_memory_before"]:
            _take_memory_before(asked["no_memory_before"])
        status = train(asked["argv"])
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _take_memory_before(step: int) -> None:
    """From that step on there is no memory: the kernel gives none, and what malloc has kept is eaten."""
    from chronos_ec2.instance.trainers.rehearsal import Rehearsal

    before_step = Rehearsal.before_step
    eaten = []

    def take(self: Rehearsal, number: int, *arguments: Any) -> None:
        before_step(self, number, *arguments)
        if number == step:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
            for size in (1 << 20, 1 << 16, 1 << 12, 1 << 10):
                with suppress(MemoryError):
                    while True:
                        eaten.append(bytearray(size))

    Rehearsal.before_step = take  # type: ignore[assignment,method-assign]  # in this process, which ends with its run


if __name__ == "__main__":
    main()
