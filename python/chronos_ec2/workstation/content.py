"""What a file holds, as S3 names it: its sha256, and the ETag that it gets in the bucket.

S3's ETag of an object that was put in one piece is the MD5 of its bytes; of one that came in parts it is the
MD5 of the parts' MD5s, then a dash and their number. A listing has the ETags of a thousand objects, so what
is there already is seen without asking for each of them. Under a KMS key the ETag is something else;
transfer.py then asks. Source: the S3 API reference, `Object`.

Digests are kept by path, size, times and inode: an unchanged file is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PART_BYTES: Final = 16 << 20
MOST_PARTS: Final = 10_000
# A file written again within one tick of its file system's clock looks unchanged.
_RACY_SECONDS: Final = 2.0

Mark = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held when it was read.

    Attributes:
        sha256: of all of it, in hex.
        parts: the MD5 of each part of `part_bytes_of(bytes)` bytes, in hex; one of an empty file.
    """

    sha256: str
    parts: tuple[str, ...]

    @property
    def etag(self) -> str:
        """The ETag of this content in a bucket, without quotes."""
        if len(self.parts) == 1:
            return self.parts[0]
        whole = hashlib.md5(b"".join(map(bytes.fromhex, self.parts)), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(self.parts)}"


def part_bytes_of(size: int) -> int:
    """How large the parts of a file are; S3 takes 10,000 at most."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def mark_of(path: Path) -> Mark:
    """What changes when a file is written: size, times and inode."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def read_content(path: Path) -> Content:
    """Read a file once for both kinds of digest."""
    whole = hashlib.sha256()
    parts: list[str] = []
    with path.open("rb", buffering=0) as file:
        step = part_bytes_of(os.fstat(file.fileno()).st_size)
        while True:
            block = file.read(step)
            while block and len(block) < step and (more := file.read(step - len(block))):
                block += more
            if not block and parts:
                break
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).hexdigest())
    return Content(whole.hexdigest(), tuple(parts))


class Digests:
    """The contents of files that were read before.

    Args:
        file: where they are kept between two commands; None: nowhere.
        clock: seconds since 1970.
    """

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._file, self._clock = file, clock
        self._known = _load(file) if file else {}
        self._lasting = set(self._known)
        self._changed = False

    def of(self, path: Path) -> Content:
        """A file's content, read only when the file has changed since it was last read.

        Raises:
            OSError: it cannot be read.
        """
        name, mark, now = str(path.absolute()), mark_of(path), self._clock()
        known = self._known.get(name)
        if known is not None and known[0] == mark:
            return known[1]
        content = read_content(path)
        written = max(mark[1], mark[2]) / 1e9
        if mark_of(path) == mark:
            self._known[name] = (mark, content)
            if now - written > _RACY_SECONDS:
                self._lasting.add(name)
                self._changed = True
            else:
                self._lasting.discard(name)
        return content

    def save(self) -> None:
        """Keep what is known for the next command; a disk that is full changes nothing but its speed."""
        if self._file is None or not self._changed:
            return
        entries = {
            name: [list(mark), content.sha256, list(content.parts)]
            for name, (mark, content) in self._known.items()
            if name in self._lasting and Path(name).exists()
        }
        staged = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            staged.write_text(json.dumps(entries))
            staged.replace(self._file)
        except OSError:
            staged.unlink(missing_ok=True)


def _load(file: Path) -> dict[str, tuple[Mark, Content]]:
    """What was kept; nothing when that is not to be read."""
    try:
        entries = json.loads(file.read_text())
        return {
            name: (tuple(mark), Content(sha256, tuple(parts)))
            for name, (mark, sha256, parts) in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
