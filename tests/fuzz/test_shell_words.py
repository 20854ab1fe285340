"""What comes from flags, AWS and the bucket into Bash is data there: no byte of it is run."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

from nonsense import COMMAND_PIECES as PIECES

from chronos_ec2.workstation.settings import REPOSITORY
from faults.tools.tally import Tally

READ = r"""
set -Eeuo pipefail
shopt -s inherit_errexit
source "$1/lib/ladder.sh"
source "$1/lib/outside_switch.sh"
pool_type='' pool_subnet='' pool_zone='' pool_market='' pool_quota_code='' pool_quota_name=''
read_one() {
  local text=$1
  wait_setting "$text" >/dev/null 2>&1 || true
  plain_error_text "$text" >/dev/null
  printf '%s' "$text" >error
  _read_aws_error error
  note_refusal errors "$text" "$text"
  note_refusal state_reasons "$text" "$text"
  outside_switch_name "$text" "$text" >/dev/null
  validate_state "$text" 2>/dev/null || true
  STATE_JSON=$text
  _known_state_allows "$text" "$text" 2>/dev/null || true
  print_command "$text" >command
  # What is printed as a command is, read by a shell, the very word.
  eval "words=($(<command))"
  [[ ${words[0]} == "$text" && ${#words[@]} == 1 ]]
}
while IFS= read -rd '' text; do
  read_one "$text"
  printf .
done
"""


def nonsense(chance: random.Random) -> str:
    """A few pieces in a row, some of them in a JSON document."""
    text = "".join(chance.choices(PIECES, k=chance.randint(1, 5)))
    if chance.random() < 0.3:
        return json.dumps({"run_id": text, "status": chance.choice(PIECES), "control": {text: 1}})
    return text


def test_nothing_that_bash_reads_is_run(tally: Tally, tmp_path: Path) -> None:
    chance = random.Random(tally.seed)
    texts = [nonsense(chance) for _ in range(1500 if tally.full else 25)]
    argv = ["bash", "-c", READ, "read", str(REPOSITORY / "shell")]
    done = subprocess.run(
        argv,
        input=b"".join(text.encode() + b"\0" for text in texts),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    read = done.stdout.count(b".")
    assert (done.returncode, read) == (0, len(texts)), (texts[read : read + 1], done.stderr[-2000:])
    assert {file.name for file in tmp_path.iterdir()} == {"command", "error"}, "something was run"
    tally.count("text given to Bash", "data", read)
