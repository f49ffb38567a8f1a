"""One HTTP/1.1 request per connection, over a Unix socket or loopback.

The standard library's client costs ten times the import of this whole package, which every script that is
tracked would pay before its first line; a daemon on the same machine needs none of what that brings.
"""

from __future__ import annotations

import socket
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, Tuple, Union

# The head of an answer of ours is some hundred bytes.
_HEAD_MAX = 64 << 10
_READ = 64 << 10


class ProtocolError(Exception):
    """The other end does not speak HTTP, or broke off in the middle of an answer."""


class Exchange:
    """One request and its answer, whose body is read as it comes."""

    def __init__(self, at: Union[str, Tuple[str, int]], timeout_s: float) -> None:
        family = socket.AF_UNIX if isinstance(at, str) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._buffer = b""
        self._deadline = monotonic() + timeout_s
        self.status = 0
        self.headers: Dict[str, str] = {}
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(at)
        except BaseException:
            self._socket.close()
            raise

    def send(self, method: str, target: str, headers: Dict[str, str], body: bytes) -> None:
        """Sends the request and reads the head of the answer into `status` and `headers` (names in lower case)."""
        lines = ["{} {} HTTP/1.1".format(method, target), "Connection: close", "Content-Length: {}".format(len(body))]
        lines.extend("{}: {}".format(name, value) for name, value in headers.items())
        if any("\n" in line or "\r" in line for line in lines):
            raise ValueError("a request line holds a line break")
        self._socket.sendall("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        while self.status < 200:
            # What comes before the answer (100 Continue) has no body.
            self._read_head()

    def read_all(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive."""
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunked()
            elif "content-length" in self.headers:
                yield from self._counted(_number(self.headers["content-length"], 10))
            else:
                yield from self._until_closed()
        finally:
            self.close()

    def wait_at_most(self, timeout_s: float) -> None:
        """From now on each piece may take so long: for bodies that come as they are written."""
        self._deadline = float("inf")
        self._socket.settimeout(timeout_s)

    def close(self) -> None:
        """Ends the exchange, also in the middle of a body."""
        self._socket.close()

    def _read_head(self) -> None:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_MAX:
                raise ProtocolError("sent an answer that does not begin as HTTP does")
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise ProtocolError("sent an answer that does not begin as HTTP does")
        self.status = int(words[1])
        pairs = (line.partition(":") for line in lines[1:])
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size = _number(self._line().split(b";")[0].decode("latin-1"), 16)
            if size == 0:
                while self._line():
                    # Trailers.
                    pass
                return
            yield from self._counted(size)
            self._line()

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            if not self._buffer:
                self._fill()
            piece, self._buffer = self._buffer[:left], self._buffer[left:]
            left -= len(piece)
            yield piece

    def _until_closed(self) -> Iterator[bytes]:
        while True:
            piece, self._buffer = self._buffer, b""
            if piece:
                yield piece
            self._buffer = self._receive()
            if not self._buffer:
                return

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_MAX:
                raise ProtocolError("sent a chunk without a length")
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _fill(self) -> None:
        piece = self._receive()
        if not piece:
            raise ProtocolError("closed the connection in the middle of an answer")
        self._buffer += piece

    def _receive(self) -> bytes:
        # A timeout per read alone would let a peer that drips a byte a second hold this process for ever.
        if monotonic() > self._deadline:
            raise socket.timeout("timed out")
        return self._socket.recv(_READ)


def _number(text: str, base: int) -> int:
    try:
        number = int(text.strip(), base)
    except ValueError:
        number = -1
    if number < 0:
        raise ProtocolError("sent an answer whose length is not a number")
    return number
