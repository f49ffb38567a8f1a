"""The track file: one JSON array per line, each call of this package one `write` to a file opened for appending.

Lines of several processes and threads do not mix, because the kernel places each append as one piece; and a process
that is killed loses nothing that had returned, because the bytes are the kernel's by then. The node reads the file;
this package never does.
"""

from __future__ import annotations

import errno
import os

from . import _errors

# Longest line, in bytes with its end: what the node reads at most.
LINE_MAX = 64 << 10

_track: Track | None = None


class Track:
    """An open track file. It stays open until the process ends; a forked child may go on using it."""

    __slots__ = ("path", "_fd", "_torn")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = _open(path)
        self._torn = False

    def write(self, lines: bytes) -> None:
        """Appends whole lines. Raises `TrackError` when they are not all in the file."""
        if self._torn:
            # A line that a full disk cut off ends here, so that only that one is lost.
            lines = b"\n" + lines
        try:
            written = os.write(self._fd, lines)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise self._failed(error) from error
            # Somebody closed all descriptors, as programs do that put themselves in the background.
            self._fd = _open(self.path)
            written = os.write(self._fd, lines)
        self._torn = written != len(lines)
        if self._torn:
            raise self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _failed(self, error: OSError) -> _errors.TrackError:
        return _failure(self.path, error)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str, error: OSError) -> _errors.TrackError:
    text = "cannot write {}: {}; what was to be logged is not kept".format(path, error.strerror)
    return _errors.TrackError(error.errno, text)


def current() -> Track | None:
    """The track file of this process's job, opened at the first call; None: there is nothing to track."""
    global _track
    if _track is None:
        path = os.environ.get("FNODE_TRACK")
        if path:
            _track = Track(path)
    return _track


def forget() -> None:
    """Closes the file and looks at the environment again: for tests, and for a job that begins in this process."""
    global _track
    if _track is not None:
        try:
            os.close(_track._fd)
        except OSError:
            pass
        _track = None


def line(*parts: str) -> bytes:
    """One line of JSON texts, as bytes. Text that is not valid Unicode has its broken halves replaced."""
    return ("[" + ",".join(parts) + "]\n").encode("utf-8", "replace")


def check_length(encoded: bytes, what: str, remedy: str) -> None:
    """Raises `ValueError` when a line is longer than the node reads."""
    if len(encoded) > LINE_MAX:
        raise ValueError(
            "{} takes {} bytes, more than the {} of one line; {}".format(what, len(encoded), LINE_MAX, remedy)
        )
