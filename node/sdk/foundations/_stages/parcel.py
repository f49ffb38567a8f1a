"""Results on their way between the jobs of one graph: values of the cache that are known by a name, not by a call.

A parcel is kept until the graph has ended, and expires by itself where that is killed. Needs a daemon.
"""

from __future__ import annotations

import time
from hashlib import sha256

from .. import _context
from .._cache import container, daemon, keeping, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

# What is not removed by its graph goes after a week: longer than any graph is waited for.
_TTL_S = 7 * 24 * 3600.0
# What another node has kept is known here a few round trips later; a node that was busy may take seconds.
PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.05
# Removed at once: the log is written once for all of them.
_PURGES = 8


class Missing(Exception):
    """No node that can be reached has it."""


def name(*words: object) -> str:
    """The key that stands for some words: 64 hex digits."""
    text = "\0".join(["foundations.parcel", *(str(word) for word in words)])
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def put(key: str, value: Any, what: str) -> int:
    """Keeps a value where every node finds it; returns its length in bytes once it is there.

    :raises container.Unkept: it cannot be pickled. :raises Missing: there is no daemon, or it keeps nothing.
    """
    packed = container.pack(value, ())
    now = store.unix_ms()
    record = {
        "key": key,
        "function": what,
        "made_unix_ms": now,
        "seconds": 0.0,
        "user": _context.user_name(),
        "project": _context.project_name() or "default",
        "node": None,
        "expires_unix_ms": now + int(_TTL_S * 1000),
    }
    try:
        handover = keeping.Handover(record, None, name("parcel"), packed)
        answer = daemon.connection().request(handover.word(), 10 * daemon.PATIENCE_S)
    except (daemon.Lost, OSError) as error:
        raise Missing("{} cannot be handed to the node: {}".format(what, error)) from None
    if "error" in answer:
        raise Missing("{} cannot be handed to the node: {}".format(what, keeping.said(answer)))
    return packed.bytes


def get(key: str, patience_s: float = PATIENCE_S) -> Any:
    """A value that was put, or that a cached call has kept.

    :raises Missing: nobody has it, after `patience_s` seconds.
    """
    return container.unpack(found(key, patience_s).data)[0]


def found(key: str, patience_s: float = PATIENCE_S) -> store.Found:
    """The record and the bytes of a value.

    :raises Missing: as `get`.
    """
    until = time.monotonic() + patience_s
    while True:
        here = store.read(key)
        if here is not None:
            return here
        if _ask(key):
            here = store.read(key)
            if here is not None:
                return here
        if time.monotonic() >= until:
            raise Missing("no node that can be reached has value {}".format(key))
        time.sleep(_LOOK_EVERY_S)


def is_here(key: str) -> bool:
    """Whether this machine has it, kept for every node to find."""
    return keeping.flush(daemon.PATIENCE_S) and store.read(key) is not None


def purge(keys: Sequence[str]) -> None:
    """Removes values from every node; what goes wrong is left to their expiry."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_PURGES) as pool:
        list(pool.map(_purge, keys))


def _purge(key: str) -> None:
    try:
        daemon.connection().request({"purge": {"key": key}}, daemon.PATIENCE_S)
    except daemon.Lost:
        return


def _ask(key: str) -> bool:
    """Whether the daemon has brought the value to this machine."""
    word = {"key": key, "function": "", "project": _context.project_name() or "default", "wait_ms": 0, "quiet": True}
    lease: Optional[str] = None
    try:
        answer = daemon.connection().request({"ask": word}, 20 * daemon.PATIENCE_S)
        if "hit" in answer:
            return True
        if "compute" in answer:
            # Nobody here computes it: whoever does shall not wait for this process.
            lease = answer["compute"].get("lease")
            daemon.connection().request({"drop": {"key": key, "lease": lease}}, daemon.PATIENCE_S)
    except daemon.Lost:
        pass
    return False
