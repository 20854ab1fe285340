"""The digest of a file's pieces: what the laptop pins is what an instance makes, also with an old Python."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from chronos_ec2.pieces_digest import PIECE_BYTES, pieces_sha256_of
from chronos_ec2.workstation.settings import REPOSITORY

PROGRAM = REPOSITORY / "python" / "chronos_ec2" / "pieces_digest.py"
_IN_BASH = """
set -Eeuo pipefail
source "$1/shell/lib/bulk_copy.sh"
_pieces_sha256 "$2"
"""


def sparse(path: Path, size: int) -> Path:
    """A file whose pieces begin with a byte of their own, and are zeros else."""
    with path.open("wb") as stream:
        for number, start in enumerate(range(0, size, PIECE_BYTES)):
            stream.seek(start)
            stream.write(bytes([number + 1]))
        stream.truncate(size)
    return path


def expected(path: Path) -> str:
    whole = path.read_bytes()
    pieces = [whole[start : start + PIECE_BYTES] for start in range(0, len(whole), PIECE_BYTES)]
    return hashlib.sha256(
        "".join(f"{hashlib.sha256(piece).hexdigest()}\n" for piece in pieces).encode()
    ).hexdigest()


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 2 * PIECE_BYTES + 1])
def test_it_is_the_digest_over_the_pieces_digests_also_where_an_instance_makes_it(
    size: int, tmp_path: Path
) -> None:
    archive = sparse(tmp_path / "an archive", size)
    done = subprocess.run(
        ["bash", "-c", _IN_BASH, "bash", str(REPOSITORY), str(archive)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert pieces_sha256_of(archive) == done.stdout.strip() == expected(archive)


def test_every_piece_counts(tmp_path: Path) -> None:
    archive = sparse(tmp_path / "an archive", 2 * PIECE_BYTES + 1)
    seen = {pieces_sha256_of(archive)}
    for place in (PIECE_BYTES - 1, PIECE_BYTES + 1, 2 * PIECE_BYTES):
        with archive.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"!")
        seen.add(pieces_sha256_of(archive))
    assert len(seen) == 4


def test_the_python_of_an_old_image_runs_it() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 7))
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_a_file_that_cannot_be_read_is_no_digest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", PROGRAM, tmp_path / "missing"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
