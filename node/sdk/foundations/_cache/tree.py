"""SHA-256 of large pieces of memory as a tree of 1 MiB leaves, hashed in threads: `hashlib` lets go of the lock."""

from __future__ import annotations

import os
import threading
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from typing import Iterable, List, Optional

# Part of every key: another size of leaves would be another scheme.
LEAF = 1 << 20
# Below this, handing work to threads costs more than it saves.
_THREADED_MIN = 4 * LEAF
# More threads than this saturate the memory bus, not the processor.
_THREADS_MAX = 8
# Bytes of a file that one thread reads at a time.
_FILE_LEAVES = 8

_pool: Optional[ThreadPoolExecutor] = None
_pool_pid = 0
_pool_lock = threading.Lock()


def digest(data: memoryview) -> bytes:
    """The digest of contiguous bytes: the root over their leaves and their length."""
    total = data.nbytes
    if total <= LEAF:
        return _root(total, [sha256(data).digest()])
    starts = range(0, total, LEAF)

    def leaf(start: int) -> bytes:
        return sha256(data[start : start + LEAF]).digest()

    if total < _THREADED_MIN:
        return _root(total, map(leaf, starts))
    return _root(total, _threads().map(leaf, starts))


def digest_of_blocks(total: int, blocks: Iterable[memoryview]) -> bytes:
    """The same digest, of bytes that come in pieces of whole leaves, the last one excepted."""
    leaves: List[bytes] = []
    for block in blocks:
        leaves.extend(sha256(block[at : at + LEAF]).digest() for at in range(0, block.nbytes, LEAF))
    return _root(total, leaves or [sha256(b"").digest()])


def digest_of_file(descriptor: int, size: int) -> bytes:
    """The same digest, of a file, without moving its position.

    :raises OSError: it cannot be read, or is shorter than `size` by now.
    """

    def leaves(start: int) -> List[bytes]:
        found = []
        for at in range(start, min(size, start + _FILE_LEAVES * LEAF), LEAF):
            found.append(sha256(_read(descriptor, at, min(LEAF, size - at))).digest())
        return found

    starts = range(0, max(size, 1), _FILE_LEAVES * LEAF)
    parts = map(leaves, starts) if size < _THREADED_MIN else _threads().map(leaves, starts)
    return _root(size, [leaf for part in parts for leaf in part] or [sha256(b"").digest()])


def _read(descriptor: int, at: int, length: int) -> bytes:
    data = os.pread(descriptor, length, at)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), at + len(data))
        if not more:
            raise OSError("the file became shorter while it was read")
        data += more
    return data


def _root(total: int, leaves: Iterable[bytes]) -> bytes:
    root = sha256(b"tree" + total.to_bytes(8, "little"))
    for leaf in leaves:
        root.update(leaf)
    return root.digest()


def _threads() -> ThreadPoolExecutor:
    """The threads of this process; a forked child has none of its parent's."""
    global _pool, _pool_pid
    with _pool_lock:
        if _pool is None or _pool_pid != os.getpid():
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(min(_THREADS_MAX, os.cpu_count() or 1), "foundations-hash")
            _pool_pid = os.getpid()
        return _pool


def _after_fork() -> None:
    # Held by a thread that the child does not have.
    global _pool_lock
    _pool_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
