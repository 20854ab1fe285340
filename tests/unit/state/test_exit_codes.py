"""Python and Bash read the same table of exit codes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from chronos_ec2.exit_codes import ExitCode

BASH_TABLE = Path(__file__).resolve().parents[3] / "shell" / "lib" / "exit_codes.sh"


def test_bash_has_the_same_table() -> None:
    script = 'source "$1"; for name in ${!EXIT_*}; do printf "%s=%s\\n" "$name" "${!name}"; done'
    done = subprocess.run(
        ["bash", "-uc", script, "bash", str(BASH_TABLE)], capture_output=True, text=True, check=True
    )
    in_bash = dict(line.split("=") for line in done.stdout.splitlines())
    assert in_bash == {f"EXIT_{name}": str(int(code)) for name, code in ExitCode.__members__.items()}
