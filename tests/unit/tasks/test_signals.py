"""A SIGTERM to a task reaches the program that it runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path


def test_a_terminated_task_lets_its_child_clean_up(tmp_path: Path) -> None:
    done = tmp_path / "cleaned-up"
    script = f"trap 'touch {done}; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    code = (
        "import sys; from chronos_ec2.workstation.commands import run_command; "
        "sys.exit(run_command(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == b"ready\n"
        task.send_signal(signal.SIGTERM)
        assert task.wait(timeout=20) == 7
    assert done.exists()
