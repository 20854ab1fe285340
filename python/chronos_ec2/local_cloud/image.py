"""The machine image: the programs that a guest finds on its PATH.

Made once when the server starts: one folder of links to this machine's programs, a wrapper for the AWS CLI,
and the instance's own `shutdown` and `date`. The folder is the guest's whole PATH, so /sbin is out of reach
by name.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chronos_ec2.errors import ToolMissing

_REQUIRED_WORDS: Final = """
    bash sh env cat cp mv rm mkdir rmdir ls ln chmod chown date head tail sort uniq tr cut paste wc tac split
    sha256sum md5sum base64 mktemp sleep timeout tee touch stat df du sync uname id whoami nproc seq dirname
    basename readlink realpath printf echo test [ true false kill setsid nohup nice expr yes od dd truncate
    mkfifo comm join grep sed awk tar gzip gunzip zcat jq curl find xargs flock
"""
_OPTIONAL_WORDS: Final = """
    ps hostname install egrep zstd unzstd zstdcat xz unxz unsquashfs mount nvidia-smi free uptime lscpu
    which diff cmp file getconf locale strace lsof ionice tty logname groups arch b2sum sha1sum sha512sum
    shuf fold fmt nl expand pathchk pwd printenv rev column getopt uuidgen logger openssl ss ip bzip2
"""
REQUIRED: Final = tuple(_REQUIRED_WORDS.split())
OPTIONAL: Final = tuple(_OPTIONAL_WORDS.split())
POWER_COMMANDS: Final = ("shutdown", "poweroff", "halt", "reboot")
_STANDARD_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def find_tool(name: str) -> str | None:
    """Where this machine keeps a program: the standard folders, our environment's, then the caller's PATH."""
    ours = Path(sys.executable).parent
    return shutil.which(name, path=f"{_STANDARD_PATH}:{ours}:{os.environ.get('PATH', '')}")


def build_image(folder: Path, find: Callable[[str], str | None] = find_tool) -> Path:
    """Make the image's bin folder anew and return it.

    Raises:
        ToolMissing: this machine lacks programs that a guest needs; the message names all of them.
    """
    found = {name: find(name) for name in (*REQUIRED, *OPTIONAL)}
    missing = sorted(name for name in REQUIRED if found[name] is None)
    if missing:
        raise ToolMissing(
            f"the embedded AWS needs these programs for its instances: {', '.join(missing)}; install them "
            "(Debian, Ubuntu: coreutils findutils util-linux grep sed gawk tar gzip jq curl) and start again"
        )
    binaries = folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)  # not through a link: nothing may be there
    binaries.mkdir()
    for name, program in found.items():
        if program is not None:
            (binaries / name).symlink_to(program)
    own = Path(__file__).parent / "image"
    # The instance's `date` finds this machine's under another name.
    (binaries / "date").rename(binaries / "date-of-this-machine")
    _write_program(binaries / "date", (own / "date").read_text())
    for name in ("python3", "python"):
        (binaries / name).symlink_to(base_interpreter())
    _write_program(binaries / "aws", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -m awscli "$@"\n')
    shutdown = (own / "shutdown").read_text()
    for name in POWER_COMMANDS:
        _write_program(binaries / name, shutdown)
    return binaries


def base_interpreter() -> str:
    """This machine's own Python, outside any virtual environment."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
