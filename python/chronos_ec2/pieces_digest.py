"""The SHA-256 over the SHA-256s of a file's pieces, as many pieces at once as there are cores.

One digest over a large file would have to wait for a single core. An instance runs this file by itself, with
the Python of its image, for it has no other yet: standard library alone, Python 3.7 or newer.

    python3 pieces_digest.py FILE
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PIECE_BYTES = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024  # stays in a core's cache


def pieces_sha256_of(path: Path) -> str:
    """The SHA-256 over the SHA-256s of a file's pieces of 64 MiB, in hex and a line each.

    Raises:
        OSError: the file cannot be read.
    """
    starts = range(0, path.stat().st_size, PIECE_BYTES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib lets other threads run
        digests = pool.map(lambda start: _piece_sha256(path, start), starts)
        return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _piece_sha256(path: Path, start: int) -> str:
    digest, left, buffer = hashlib.sha256(), PIECE_BYTES, memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        while left > 0:
            count = stream.readinto(buffer[: min(left, _READ_BYTES)])
            if not count:
                break
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


if __name__ == "__main__":
    try:
        print(pieces_sha256_of(Path(sys.argv[1])))
    except OSError as error:
        sys.exit(f"pieces_digest: {error}")
