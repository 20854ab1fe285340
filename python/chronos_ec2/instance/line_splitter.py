"""Bytes from a pipe, in any pieces, into lines of text of bounded length."""

from __future__ import annotations

from typing import Final

MAX_LINE_BYTES: Final = 64 * 1024


class LineSplitter:
    r"""Splits at `\n`, `\r` and `\r\n` (progress bars use `\r`), keeps at most one line in memory.

    A line past the limit is cut, says so, and its rest is dropped. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._dropping = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes."""
        if not chunk:
            return []
        half_of_crlf = self._after_cr and chunk.startswith(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        if half_of_crlf:
            chunk = chunk[1:]
        lines: list[str] = []
        for piece in chunk.splitlines(keepends=True):
            text = piece.rstrip(b"\r\n")
            self._take(text, lines)
            if len(text) < len(piece):
                self._end_line(lines)
        return lines

    def finish(self) -> list[str]:
        """What is left when the pipe closes: a last line without its end."""
        lines: list[str] = []
        if self._pending:
            self._end_line(lines)
        return lines

    def _take(self, text: bytes, lines: list[str]) -> None:
        if self._dropping:
            return
        room = self._limit - len(self._pending)
        self._pending += text[:room]
        if len(text) > room:
            self._pending += f" [line cut at {self._limit} bytes]".encode()
            self._flush(lines)
            self._dropping = True

    def _end_line(self, lines: list[str]) -> None:
        if not self._dropping:
            self._flush(lines)
        self._dropping = False

    def _flush(self, lines: list[str]) -> None:
        lines.append(self._pending.decode("utf-8", errors="replace"))
        self._pending.clear()
