"""The options of `foundations.cache`, looked at where they are written: a wrong one must not cost what a call computed."""

from __future__ import annotations

import math
import os
from operator import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

# Largest value that is kept unless told otherwise.
BYTES_MAX = 16 << 30


def options_with(**given: Any) -> Dict[str, Any]:
    """All options, checked, those not given at their defaults.

    :raises TypeError: one is of a wrong type; the text names it and what it takes.
    :raises ValueError: one has a value that it cannot have.
    """
    ignore, files = given.get("ignore", ()), given.get("files", ())
    return {
        "ttl": _seconds(given.get("ttl")),
        "version": given.get("version"),
        "depends_on": _dependencies(given.get("depends_on", ())),
        "ignore": _names("ignore", ignore),
        "files": _names("files", files),
        "raised": _exceptions(given.get("cache_exceptions", False)),
        "max_bytes": _bytes(given.get("max_bytes")),
    }


def _wrong(name: str, takes: str, given: object) -> str:
    return "foundations.cache: {} takes {}, not {!r}".format(name, takes, given)


def _seconds(given: Any) -> Optional[float]:
    takes = "seconds, a finite number above 0"
    if given is None:
        return None
    # Also the numbers of numpy; texts and `True` are none.
    if isinstance(given, bool) or not (hasattr(type(given), "__float__") or hasattr(type(given), "__index__")):
        raise TypeError(_wrong("ttl", takes, given))
    try:
        seconds = float(given)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(_wrong("ttl", takes, given)) from None
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(_wrong("ttl", takes, given))
    return seconds


def _bytes(given: Any) -> int:
    takes = "a whole number of bytes above 0"
    if given is None:
        return BYTES_MAX
    if isinstance(given, bool) or not hasattr(type(given), "__index__"):
        raise TypeError(_wrong("max_bytes", takes, given))
    if index(given) <= 0:
        raise ValueError(_wrong("max_bytes", takes, given))
    return index(given)


def _exceptions(given: Any) -> Tuple[type, ...]:
    if given is True:
        return (Exception,)
    if given is False or given is None:
        return ()
    classes = tuple(given) if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(_wrong("cache_exceptions", "True, False or classes of exceptions", one))
    return classes


def _dependencies(given: Any) -> Tuple[Any, ...]:
    if isinstance(given, (str, os.PathLike)):
        given = (given,)
    if isinstance(given, (bytes, dict)) or not hasattr(type(given), "__iter__"):
        raise TypeError(_wrong("depends_on", "a list", given))
    wanted = tuple(given)
    for name in wanted:
        if isinstance(name, str) and (not name or any(letter in name for letter in "=/\0")):
            takes = "names of environment variables, pathlib.Path(…) for files, modules, functions, classes and values"
            raise ValueError(_wrong("depends_on", takes, name))
    return wanted


def _names(option: str, given: Any) -> Tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    takes = "a list of names of arguments"
    if isinstance(names, bytes) or not hasattr(type(names), "__iter__"):
        raise TypeError(_wrong(option, takes, given))
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(_wrong(option, takes, name))
    return names
