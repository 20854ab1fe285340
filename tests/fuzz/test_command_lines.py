"""Launch and kill under generated flags: an exit code that the README names, and no byte of a flag is run."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nonsense import COMMAND_PIECES as PIECES

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.workstation.settings import KEYS, REPOSITORY
from faults.tools.tally import Tally

AWS = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
case $* in *--generate-cli-skeleton*) echo '{"IfMatch": "", "IfNoneMatch": ""}' && exit ;; esac
echo 'Unable to locate credentials. You can configure credentials by running "aws login".' >&2
exit 253
"""
FLAGS = {
    "launch_training.sh": {
        **dict.fromkeys(("--env", "--set", "--max-cost", "--wait-for-capacity", "--resume"), True),
        **dict.fromkeys(("--spot", "--dry-run", "--json"), False),
    },
    "kill_training.sh": {"--env": True, **dict.fromkeys(("--yes", "--now", "--dry-run", "--json"), False)},
}
CRASHED = re.compile(r"Traceback|line \d+: |unbound variable|syntax error|command not found|jq: error")
ASKING = re.compile(r"(--cli-\S+ \d+ )*\S+ ((get|describe|list|head)-|\S+ --generate-cli-skeleton)|--version")


def value(chance: random.Random) -> str:
    """What may stand behind a flag."""
    text = "".join(chance.choices(PIECES, k=chance.randint(1, 3)))
    match chance.randrange(4):
        case 0:
            return f"{chance.choice(KEYS)}={text}"
        case 1:
            return chance.choice(("dev", "prod", "local", "2h", "4.50", "2025-01-15-143022", "max_steps=3"))
        case _:
            return text


def command_line(script: str, chance: random.Random) -> list[str]:
    """A few flags of a script with values, some of them good, and now and then a word that is no flag."""
    words = ["--env", chance.choice(("dev", value(chance)))] if chance.random() < 0.8 else []
    for _ in range(chance.randint(0, 4)):
        flag, takes_value = chance.choice(list(FLAGS[script].items()))
        words += [flag, value(chance)] if takes_value else [flag]
    if chance.random() < 0.2:
        words.insert(chance.randint(0, len(words)), value(chance))
    return words


@pytest.mark.parametrize("script", FLAGS)
def test_no_flag_breaks_a_script(tally: Tally, tmp_path: Path, script: str) -> None:
    chance = random.Random(f"{tally.seed} {script}")
    programs, calls, here = tmp_path / "bin", tmp_path / "calls", tmp_path / "here"
    programs.mkdir()
    here.mkdir()
    (programs / "aws").write_text(AWS)
    (programs / "aws").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CHRONOS_"))}
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(300 if tally.full else 8):
        words = command_line(script, chance)
        done = subprocess.run(
            [str(REPOSITORY / "shell" / script), *words],
            cwd=here,
            env={**kept, "PATH": path, "CALLS": str(calls), "HOME": str(here)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
        story = f"{words!r} ended with {done.returncode}:\n{done.stderr}"
        asked_for_help = done.returncode == 0 and {"--help", "-h"} & set(words)
        assert asked_for_help or done.returncode in set(ExitCode) - {ExitCode.OK}, story
        assert not CRASHED.search(done.stderr), story
        assert list(here.iterdir()) == [], story
        tally.count(f"flags of {script}", ExitCode(done.returncode).name.lower())
    made = calls.read_text().splitlines()
    assert made and [call for call in made if not ASKING.match(call)] == [], (
        "nothing is changed before AWS answers"
    )
