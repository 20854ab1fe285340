"""A SIGTERM to a task reaches the program that it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from outside_looks import until


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


def test_a_terminated_task_lets_all_that_run_side_by_side_clean_up(tmp_path: Path) -> None:
    words = "trap 'touch {0}.cleaned; exit 7' TERM; touch {0}.ready; while :; do sleep 0.05; done"
    children = [["bash", "-c", words.format(tmp_path / name)] for name in ("one", "two")]
    code = (
        "import sys; from chronos_ec2.workstation import commands; commands.cpu_count = lambda: 2; "
        f"sys.exit(commands.run_side_by_side({children!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True
    ) as task:
        try:
            until(lambda: len(list(tmp_path.glob("*.ready"))) == 2, "they do not start", 60)
            task.send_signal(signal.SIGTERM)
            assert task.wait(timeout=20) == 7
        finally:
            with suppress(ProcessLookupError):
                os.killpg(task.pid, signal.SIGKILL)
    assert {path.name for path in tmp_path.glob("*.cleaned")} == {"one.cleaned", "two.cleaned"}
