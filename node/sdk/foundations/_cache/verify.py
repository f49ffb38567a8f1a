"""How the cache is used, and what came of computing again what it had found.

``FNODE_CACHE=verify`` computes every value that is found, ``verify:0.1`` every tenth, drawn by chance. `fnode cache
verify -- COMMAND` runs a program so, and reads the report that is written here.
"""

from __future__ import annotations

import json
import os
from random import Random

from .. import _console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Set

# The variable that turns the cache ``off``, or has it ``verify`` what it finds by computing it, too.
MODE = "FNODE_CACHE"
# A file that gets a line for each call that was computed although its value was found.
REPORT = "FNODE_CACHE_REPORT"

_OFF = ("off", "0", "false", "no")
_ON = ("", "on", "1", "true", "yes")

# Of functions: the keys of which it was told that what is kept is not what is computed.
_differing: Dict[str, Set[str]] = {}
# Of its own: a program that seeds the global generator gets its own numbers.
_random = Random()


def mode() -> str:
    """How this call uses the cache: ``off``, ``on`` or ``verify``; a word that is not known means ``on``, and is told once."""
    given = os.environ.get(MODE)
    if not given:
        return "on"
    said = given.strip().lower()
    if said in _ON:
        return "on"
    if said in _OFF:
        return "off"
    if said == "verify":
        return "verify"
    word, _, sample = said.partition(":")
    try:
        fraction = float(sample)
    except ValueError:
        fraction = 0.0
    if word == "verify" and 0.0 < fraction <= 1.0:
        return "verify" if _random.random() < fraction else "on"
    _console.warning_once(
        "{}={} is not known, so results are cached as ever; write off, on, verify or verify:0.1".format(MODE, given)
    )
    return "on"


def tell_differing(function: str, key: str) -> None:
    """Says that a kept value is not what is computed: once per key, with what may be the cause once per function."""
    keys = _differing.setdefault(function, set())
    if key in keys:
        return
    keys.add(key)
    if len(keys) > 1:
        _console.warning("nor is what is kept of {} under the key {}".format(function, key))
        return
    _console.warning(
        "what is kept of {} (key {}) is not what it computes now: it is not deterministic, or it reaches "
        "something that its key does not see; name that in depends_on, and forget the value".format(function, key)
    )


def report(function: str, key: str, same: bool) -> None:
    """Tells whoever asked for a report; one that cannot be written is no reason to end a job."""
    path = os.environ.get(REPORT)
    if not path:
        return
    line = json.dumps({"function": function, "key": key, "same": same}) + "\n"
    try:
        # In one write, so that lines of several processes do not mix.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode("utf-8"))
        finally:
            os.close(descriptor)
    except OSError as error:
        _console.warning_once("the report {} cannot be written: {}".format(path, error))
