"""The machine image: the programs that a guest finds on its PATH.

Made once when the server starts: one folder of links to this machine's programs, a wrapper for the AWS CLI,
and the instance's own `shutdown` and `date`. The folder is the guest's whole PATH, so /sbin is out of reach
by name.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
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
    ps hostname install egrep zstd unzstd zstdcat xz unxz unsquashfs mount umount nvidia-smi free uptime lscpu
    which diff cmp file getconf locale strace lsof ionice tty logname groups arch b2sum sha1sum sha512sum
    shuf fold fmt nl expand pathchk pwd printenv rev column getopt uuidgen logger openssl ss ip bzip2
"""
REQUIRED: Final = tuple(_REQUIRED_WORDS.split())
OPTIONAL: Final = tuple(_OPTIONAL_WORDS.split())
POWER_COMMANDS: Final = ("shutdown", "poweroff", "halt", "reboot")
PROBES: Final = {
    "bash": "-c '((BASH_VERSINFO[0] >= 5))'",
    "stat": "-c %s /",
    "date": "-d @0 +%s",
    "dd": "if=/dev/null of=/dev/null bs=1M iflag=skip_bytes,count_bytes skip=0 count=0 status=none",
    "find": "/ -maxdepth 0 -printf %b",
    "tar": "-cf /dev/null --verbatim-files-from -T /dev/null",
}
"""Of the programs that differ from system to system, what an instance's scripts ask of them."""
_STANDARD_FOLDERS: Final = ("/usr/local/bin", "/usr/bin", "/bin")


def find_tool(name: str) -> str | None:
    """Where this machine keeps a program: the caller's PATH, our environment's folder, the standard ones.

    The caller's come first: GNU's tools of macOS are where its PATH has been made to lead.
    """
    callers = map(Path, os.environ.get("PATH", "").split(os.pathsep))
    folders = [*(folder for folder in callers if folder.is_absolute()), Path(sys.executable).parent]
    return shutil.which(name, path=os.pathsep.join(map(str, [*folders, *_STANDARD_FOLDERS])))


def build_image(folder: Path, find: Callable[[str], str | None] = find_tool) -> Path:
    """Make the image's bin folder anew and return it.

    Raises:
        ToolMissing: this machine lacks programs that a guest needs, or has others of that name; the message
            names all of them.
    """
    found = {name: find(name) for name in (*REQUIRED, *OPTIONAL)}
    missing = sorted(name for name in REQUIRED if found[name] is None)
    others = [
        f"a {name} that knows {name} {options} ({program} does not)"
        for name, options in PROBES.items()
        if (program := found[name]) is not None and not _answers(program, options)
    ]
    if missing or others:
        raise ToolMissing(
            f"the embedded AWS needs these programs for its instances: {', '.join([*missing, *others])}; "
            "install them (Debian, Ubuntu: coreutils findutils util-linux grep sed gawk tar gzip jq curl; "
            "macOS: brew install bash coreutils findutils gnu-tar util-linux jq, and put the libexec/gnubin "
            "folders first on PATH) and start again"
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


def _answers(program: str, options: str) -> bool:
    try:
        done = subprocess.run([program, *shlex.split(options)], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def base_interpreter() -> str:
    """This machine's own Python, outside any virtual environment."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
