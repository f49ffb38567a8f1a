"""What a process ran with: Python, packages and, in execution mode, the state of its git checkout.

Asked for at the end and not at the import, because it costs milliseconds; bounded, because an end must not wait.
"""

from __future__ import annotations

import os
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

# Seconds that all of git's answers together may take.
_GIT_MAX_S = 1.0
# Of uncommitted changes so much is kept; the whole record is one line of 64 KiB.
DIFF_MAX = 40 << 10
# An answer of git that is longer than this is cut: in bytes, where a character has at most four.
_ANSWER_MAX = 4 * DIFF_MAX
_PACKAGES_MAX = 1000


def at_end(with_git: bool) -> Dict[str, Any]:
    """The record: python_version and _implementation, packages (``name==version``), argv; with git its state, too."""
    record: Dict[str, Any] = {
        "python_version": sys.version.split()[0],
        "python_implementation": sys.implementation.name,
        "packages": packages(),
        "argv": [argument[:1024] for argument in sys.argv[:100]],
    }
    if with_git:
        record.update(git(os.getcwd() if os.path.isdir(os.curdir) else "/"))
    return record


def packages() -> List[str]:
    """Installed packages, by the names of their metadata directories: reading each file would take a second."""
    found: Dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or os.curdir)
        except OSError:
            continue
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending not in (".dist-info", ".egg-info"):
                continue
            parts = stem.split("-")
            if len(parts) >= 2:
                # The first on the path is the one that is imported.
                found.setdefault(parts[0].replace("_", "-").lower(), parts[1])
    return ["{}=={}".format(name, version) for name, version in sorted(found.items())][:_PACKAGES_MAX]


def git(directory: str) -> Dict[str, Any]:
    """Commit, branch, remote and uncommitted changes of the checkout that `directory` is in; empty if it is in none."""
    if not _is_checkout(directory):
        return {}
    deadline = monotonic() + _GIT_MAX_S
    commit = _ask(directory, deadline, "rev-parse", "HEAD")
    if not commit:
        return {}
    found: Dict[str, Any] = {"git_commit": commit}
    branch = _ask(directory, deadline, "rev-parse", "--abbrev-ref", "HEAD")
    remote = _ask(directory, deadline, "config", "--get", "remote.origin.url")
    diff = _ask(directory, deadline, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    if branch and branch != "HEAD":
        found["git_branch"] = branch
    if remote:
        found["git_remote"] = without_password(remote)
    if diff:
        found["git_diff"] = diff[:DIFF_MAX]
        found["git_diff_truncated"] = len(diff) > DIFF_MAX
    return found


def without_password(remote: str) -> str:
    """An address without the user and token that some put into it: the record is seen by the whole lab."""
    scheme, separator, rest = remote.partition("://")
    if not separator:
        return remote
    host, slash, path = rest.partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path


def _is_checkout(directory: str) -> bool:
    while True:
        if os.path.exists(os.path.join(directory, ".git")):
            return True
        parent = os.path.dirname(directory)
        if parent == directory:
            return False
        directory = parent


def _ask(directory: str, deadline: float, *words: str) -> Optional[str]:
    """What git prints, as far as it is kept; None: it failed, or took too long."""
    import subprocess

    try:
        process = subprocess.Popen(
            ["git", *words],
            cwd=directory,
            env=dict(os.environ, GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    assert process.stdout is not None
    with process.stdout:
        text = _read_until(process.stdout.fileno(), deadline)
    if text is None or len(text) > _ANSWER_MAX:
        # Too late; or longer than will be kept, so that it need not be finished.
        process.kill()
    code = process.wait()
    if text is None or (code != 0 and len(text) <= _ANSWER_MAX):
        return None
    return text.decode("utf-8", "replace").rstrip("\n")


def _read_until(descriptor: int, deadline: float) -> Optional[bytes]:
    """All bytes to the end, or a little more than are kept; None: the time is over."""
    from select import select

    text = b""
    while len(text) <= _ANSWER_MAX:
        left = deadline - monotonic()
        if left <= 0 or not select([descriptor], [], [], left)[0]:
            return None
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        text += piece
    return text
