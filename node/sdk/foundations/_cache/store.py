"""The values on this machine: one record a file, small values in it, large ones beside it.

A record is written aside and renamed, so a reader finds all of it or nothing. Whatever is damaged, gone or of
another layout is a miss, never an error.
"""

from __future__ import annotations

import json
import os
import time
from zlib import crc32

from .. import _home
from .container import Container, Damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

VERSION = 1
# Containers up to this ride in their record.
INLINE_MAX = 64 << 10
# Records are touched at most so often: eviction goes by it.
_TOUCH_S = 60.0

_dir: Optional[Tuple[Optional[str], int, str]] = None


def directory() -> str:
    """The cache's directory, made if need be; looked for once per process and data directory.

    :raises OSError: it cannot be made.
    """
    global _dir
    named = os.environ.get("FNODE_HOME")
    if _dir is not None and _dir[0] == named and _dir[1] == os.getpid():
        return _dir[2]
    home = _home.find().home
    if not os.access(home, os.W_OK) and home == _home.SYSTEM_HOME:
        home = _home.homes()[0]
    path = os.path.join(home, "cache")
    os.makedirs(path, mode=0o700, exist_ok=True)
    _dir = (named, os.getpid(), path)
    return path


def record_path(key: str) -> str:
    """Where the record of a key lies."""
    return "{}/values/{}/{}".format(directory(), key[:2], key)


class Found:
    """A record that was read, and the bytes of its value."""

    __slots__ = ("record", "data")

    def __init__(self, record: Dict[str, Any], data: memoryview) -> None:
        self.record = record
        self.data = data


def read(key: str) -> Optional[Found]:
    """The value of a key on this machine; None: it is not there, has expired, or is damaged."""
    try:
        path = record_path(key)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(descriptor)
        # One byte more than the longest record: what is longer is none.
        content = os.read(descriptor, info.st_size) if info.st_size <= INLINE_MAX * 4 else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    try:
        line, separator, rest = content.partition(b"\n")
        record = json.loads(line)
        if not separator or record["v"] != VERSION or record["key"] != key:
            return None
        expires = record["expires_unix_ms"]
        now = time.time()
        if expires is not None and expires <= now * 1000:
            return None
        data = _inline(record, rest) if record["inline"] else _mapped(record, path)
    except (ValueError, KeyError, TypeError, OSError, Damaged):
        return None
    if now - info.st_mtime > _TOUCH_S:
        _touch(path)
    return Found(record, data)


def _inline(record: Dict[str, Any], rest: bytes) -> memoryview:
    if len(rest) != record["bytes"] or record.get("crc32", crc32(rest)) != crc32(rest):
        raise Damaged("the record is cut off, or was changed")
    # Of its own, and writable: arrays that come out of it are the caller's.
    return memoryview(bytearray(rest))


def _mapped(record: Dict[str, Any], path: str) -> memoryview:
    from mmap import ACCESS_COPY, mmap

    with open(record.get("path") or path + ".value", "rb") as file:
        # Nobody hashes so much at every hit: a file that was written to since, or replaced, is for the daemon to check.
        if record["seen"] != _seen(os.fstat(file.fileno())):
            raise Damaged("the file was changed")
        # What a caller changes in an array stays with the caller: pages are copied when they are written to.
        mapped = mmap(file.fileno(), 0, access=ACCESS_COPY)
    if len(mapped) != record["bytes"]:
        raise Damaged("the file is not the one that was kept")
    return memoryview(mapped)


def _seen(info: os.stat_result) -> Dict[str, int]:
    """Which file it is, and when it was written last, as records have it."""
    return {"inode": info.st_ino, "mtime_ns": info.st_mtime_ns}


def _touch(path: str) -> None:
    try:
        os.utime(path)
    except OSError:
        # Evicted a moment ago, or another user's.
        return


def write(record: Dict[str, Any], container: Container) -> None:
    """Keeps a value on this machine without a daemon; one that starts later takes it over.

    :raises OSError: it could not be written; then nothing of it is found.
    """
    path = record_path(record["key"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    inline = container.bytes <= INLINE_MAX
    record = dict(record, v=VERSION, bytes=container.bytes, inline=inline)
    body = b""
    if inline:
        body = container.joined()
        record["crc32"] = crc32(body)
    else:
        write_aside(path + ".value", container)
        record.update(blob=None, path=path + ".value", seen=_seen(os.stat(path + ".value")))
    _write_record(path, record, body)


def adopt(record: Dict[str, Any], size: int, file: str) -> None:
    """As `write`, of a value that lies in a file on the same file system; the file is moved.

    :raises OSError: it could not be moved or written.
    """
    path = record_path(record["key"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    os.replace(file, path + ".value")
    record = dict(record, v=VERSION, bytes=size, inline=False, blob=None, path=path + ".value")
    record["seen"] = _seen(os.stat(path + ".value"))
    _write_record(path, record, b"")


def _write_record(path: str, record: Dict[str, Any], body: bytes) -> None:
    line = json.dumps(record, separators=(",", ":")).encode("utf-8") + b"\n"
    write_aside(path, Container([line, body]))


def write_aside(path: str, container: Container) -> None:
    """Writes a file that nobody sees before it is whole.

    :raises OSError: nothing is left of it then.
    """
    aside = "{}/.new-{}".format(os.path.dirname(path), os.urandom(8).hex())
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            container.write_to(file)
        os.replace(aside, path)
    except BaseException:
        try:
            os.unlink(aside)
        except OSError:
            pass
        raise


def incoming(container: Container) -> str:
    """Writes a large container where the daemon takes it from; returns its name below the cache's directory.

    :raises OSError: it could not be written.
    """
    name = "incoming/" + os.urandom(16).hex()
    os.makedirs(os.path.join(directory(), "incoming"), mode=0o700, exist_ok=True)
    write_aside(os.path.join(directory(), name), container)
    return name


def remove(key: str) -> None:
    """Removes a value from this machine."""
    try:
        path = record_path(key)
    except OSError:
        return
    for name in (path, path + ".value"):
        try:
            os.unlink(name)
        except OSError:
            continue


def unix_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
