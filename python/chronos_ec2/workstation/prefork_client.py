"""Hands one call over to the prefork server: `prefork_client.py SOCKET PROGRAM WORDS...`.

Run with `python -I -S`; it imports nothing but built-in modules, because its start is most of a call's cost.
Sends the environment, folder and words (`aws s3api ...` or `python -m ...`) with the three standard streams,
and exits as the call does. Where no server listens, PROGRAM is run with the words after the first.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys


def main() -> None:
    """Send the call, wait for its exit status."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # no traceback after ctrl-C
    environ = b"\x00".join(name + b"=" + value for name, value in posix.environ.items())
    words = b"\x00".join(word.encode("utf-8", "surrogateescape") for word in sys.argv[3:])
    text = b"\x01".join((posix.getcwdb(), words, environ))
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        link.connect(sys.argv[1])
    except OSError:
        posix.execve(sys.argv[2], [sys.argv[2], *sys.argv[4:]], posix.environ)
    streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    link.sendmsg([len(text).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    link.sendall(text)
    status = link.recv(1)
    posix._exit(status[0] if status else 137)


main()
