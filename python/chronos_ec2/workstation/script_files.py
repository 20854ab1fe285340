"""The files that an instance runs: which of this checkout they are, and whether the bucket has the same.

    python -m chronos_ec2.workstation.script_files --env NAME --bucket B <MANIFEST.sha256

ends with exit code 18 when the uploaded scripts are not those of this checkout: the user data of a launch is
this checkout's, and an instance runs what is in the bucket.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from chronos_ec2.errors import ChronosError, NotUploaded
from chronos_ec2.report.page_parts import LIBRARY
from chronos_ec2.words import some_of
from chronos_ec2.workstation.settings import REPOSITORY
from chronos_ec2.workstation.toolchain import report_library

SCRIPTS_PREFIX: Final = "cached-datasets/scripts/"
_SINGLE_SCRIPTS: Final = {
    "bootstrap.sh": "shell/bootstrap.sh",
    "preflight_check.py": "python/preflight_check.py",
    "training_wrapper.py": "python/training_wrapper.py",
    "chronos_ec2/__init__.py": "python/chronos_ec2/__init__.py",
    "chronos_ec2/errors.py": "python/chronos_ec2/errors.py",
    "chronos_ec2/exit_codes.py": "python/chronos_ec2/exit_codes.py",
    "chronos_ec2/metrics_log.py": "python/chronos_ec2/metrics_log.py",
    "chronos_ec2/pieces_digest.py": "python/chronos_ec2/pieces_digest.py",
    "chronos_ec2/start_model.py": "python/chronos_ec2/start_model.py",
    "chronos_ec2/training_settings.py": "python/chronos_ec2/training_settings.py",
    "chronos_ec2/words.py": "python/chronos_ec2/words.py",
}
_SCRIPT_FOLDERS: Final = {
    "lib": "shell/lib",
    "report": "templates/report",
    "chronos_ec2/data": "python/chronos_ec2/data",
    "chronos_ec2/report": "python/chronos_ec2/report",
    "chronos_ec2/state": "python/chronos_ec2/state",
    "chronos_ec2/instance": "python/chronos_ec2/instance",
}


def instance_scripts(repo_root: Path) -> dict[str, Path]:
    """The files of an instance, by their name under the scripts' prefix.

    Raises:
        NotUploaded: one is missing in the working tree.
    """
    found = {name: repo_root / path for name, path in _SINGLE_SCRIPTS.items()}
    for target, folder in _SCRIPT_FOLDERS.items():
        root = repo_root / folder
        if not root.is_dir():
            raise NotUploaded(f"{root} is missing; is {repo_root} the root of this repository?")
        for path in root.rglob("*"):
            inner = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inner.parts)
            if path.is_file() and not hidden and path.suffix != ".pyc":
                found[f"{target}/{inner.as_posix()}"] = path
    missing = [str(path) for path in found.values() if not path.is_file()]
    if missing:
        raise NotUploaded(f"missing in the working tree: {', '.join(missing)}")
    return found


def report_scripts() -> dict[str, Path]:
    """The report's drawing library, by the names of its files under the scripts' prefix.

    Raises:
        ToolMissing: it is not installed.
    """
    return {f"report/{name}": path for name, path in report_library().items()}


def digests_in(manifest: bytes) -> dict[str, str]:
    """The sha256 of each file that a MANIFEST.sha256 names."""
    sums = (line.split(maxsplit=1) for line in manifest.decode(errors="replace").splitlines())
    return {words[1]: words[0] for words in sums if len(words) == 2}


def not_ours(uploaded: Mapping[str, str], here: Mapping[str, Path]) -> list[str]:
    """The names of the uploaded scripts that are not this checkout's, and of those that were not uploaded.

    Args:
        uploaded: as `digests_in` has them; the programs below `bin/` come from no checkout.
        here: this checkout's files by the same names.

    Raises:
        OSError: a file cannot be read.
    """
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in here.items()}
    theirs = {name: digest for name, digest in uploaded.items() if not name.startswith("bin/")}
    return sorted(name for name in digests.keys() | theirs.keys() if digests.get(name) != theirs.get(name))


def is_of_library(name: str) -> bool:
    """Whether a file under the scripts' prefix is the drawing library's, which is no part of a checkout."""
    return name.removeprefix("report/") in LIBRARY


def require_ours(manifest: bytes, repository: Path, bucket: str, environment: str) -> None:
    """Refuse scripts in the bucket that are not this checkout's.

    Raises:
        NotUploaded: they are not, or one is missing in the working tree.
    """
    uploaded = {name: digest for name, digest in digests_in(manifest).items() if not is_of_library(name)}
    if other := not_ours(uploaded, instance_scripts(repository)):
        raise NotUploaded(
            f"the scripts in s3://{bucket}/{SCRIPTS_PREFIX} are not those of this checkout "
            f"({some_of(other)}): run invoke upload --env {environment}"
        )


def main(argv: list[str] | None = None) -> int:
    """Compare the manifest on standard input with this checkout."""
    parser = argparse.ArgumentParser(prog="script_files", description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--bucket", required=True)
    arguments = parser.parse_args(argv)
    try:
        require_ours(sys.stdin.buffer.read(), REPOSITORY, arguments.bucket, arguments.env)
    except ChronosError as error:
        print(f"launch: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
