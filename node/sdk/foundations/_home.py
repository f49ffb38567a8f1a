"""Where this machine's daemon is: the data directory, its API's socket and address, the program itself."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

# The data directory of a daemon that runs for the whole machine.
SYSTEM_HOME = "/var/lib/fnode"


class Address:
    """How one daemon is reached: its data directory, Unix socket, and `127.0.0.1:PORT` with the token for it."""

    __slots__ = ("home", "socket", "addr", "token", "pid", "binary")

    def __init__(self, home: str, api: Dict[str, Any]) -> None:
        self.home = home
        self.socket: str = _text(api, "socket") or os.path.join(home, "run", "api.sock")
        self.addr: str = _text(api, "addr")
        self.token: str = _text(api, "token")
        self.binary: str = _text(api, "binary")
        pid = api.get("pid")
        self.pid: int = pid if isinstance(pid, int) else 0

    def loopback(self) -> Optional[tuple]:
        """Host and port, when the daemon that wrote them still has them: a stranger is not told the token."""
        host, _, port = self.addr.rpartition(":")
        if not (self.token and host and port.isdigit() and self.pid > 0):
            return None
        try:
            owner = os.stat("/proc/{}".format(self.pid)).st_uid
        except OSError:
            return None
        return (host, int(port)) if owner == os.getuid() or os.getuid() == 0 else None


def homes() -> List[str]:
    """Data directories in the order in which they are tried: the named one, else the user's and the machine's."""
    named = os.environ.get("FNODE_HOME")
    if named:
        return [os.path.abspath(named)]
    return [os.path.join(os.path.expanduser("~"), ".fnode"), SYSTEM_HOME]


def find() -> Address:
    """The first data directory that a daemon has been in; else the first."""
    candidates = homes()
    for home in candidates:
        api = _read_api(home)
        address = Address(home, api)
        if api or os.path.exists(address.socket):
            return address
    return Address(candidates[0], {})


def binary() -> Optional[str]:
    """The `fnode` program: `FNODE_BIN`, what the daemon says, the one on PATH; None: there is none."""
    named = os.environ.get("FNODE_BIN")
    if named:
        return named
    told = find().binary
    if told and os.access(told, os.X_OK):
        return told
    from shutil import which

    return which("fnode")


def _read_api(home: str) -> Dict[str, Any]:
    import json

    try:
        with open(os.path.join(home, "api.json"), encoding="utf-8") as file:
            api = json.load(file)
    except (OSError, ValueError):
        # Not there, not ours to read, or half written by a daemon that died: the socket may still answer.
        return {}
    return api if isinstance(api, dict) else {}


def _text(api: Dict[str, Any], name: str) -> str:
    value = api.get(name)
    return value if isinstance(value, str) else ""
