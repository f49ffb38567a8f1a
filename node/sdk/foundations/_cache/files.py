"""Files by their content: paths, open files, and the marks `File` and `Directory` for paths that are plain text."""

from __future__ import annotations

import os
import stat
import time
from hashlib import sha256

from . import tree
from .graph import Node
from .values import watch_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple, Union

    from .walk import Walk

# A file that changed within this time before it was read may change again without its times telling.
_SETTLED_NS = 2_000_000_000
_DIGESTS_MAX = 100_000

_digests: Dict[Tuple[Any, ...], bytes] = {}


class File:
    """A file as an argument of a cached function: its content counts, not where it lies.

    It is an ``os.PathLike``: pass it to ``open``, or take ``path`` or ``str(file)``.

    Example::

        >>> import foundations
        >>> with open("rows.csv", "w") as file:
        ...     _ = file.write("1,2")
        >>> str(foundations.File("rows.csv"))
        'rows.csv'
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        self.path: str = os.fspath(path)

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return "{}({!r})".format(type(self).__name__, self.path)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.path == self.path  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.path))

    def _foundations_describe(self, walk: Walk) -> Node:
        return of_path(self, walk)


class Directory(File):
    """A directory as an argument of a cached function: names and contents of all files below it count.

    Example::

        >>> import foundations
        >>> str(foundations.Directory("images"))
        'images'
    """


def of_path(path: Any, walk: Walk) -> Node:
    """A path: the name and content of its file, the content of its directory, its text when nothing is there."""
    watch_again(path, walk, of_path)
    text = os.fspath(path)
    try:
        info = os.stat(text)
    except OSError:
        return Node(b"no file", [text])
    if stat.S_ISDIR(info.st_mode):
        place = _place_of_code(text, path, walk)
        return place if place is not None else Node(b"directory " + _directory_digest(text))
    if not stat.S_ISREG(info.st_mode):
        return Node(b"special file", [text])
    # Programs choose how to read a file by its ending.
    return Node(b"file " + os.path.basename(text).encode("utf-8", "surrogateescape") + b" " + file_digest(text))


def _place_of_code(text: str, path: Any, walk: Walk) -> Optional[Node]:
    """A global that names a directory around the code, or around the working directory, is a place and no data."""
    if not walk.of_code or isinstance(path, File):
        return None
    whole = os.path.realpath(text)
    for inside in (os.path.realpath(walk.file) if walk.file else "", os.path.realpath(os.getcwd())):
        if inside == whole or inside.startswith(whole.rstrip(os.sep) + os.sep):
            return Node(b"place above " + os.path.relpath(inside, whole).encode("utf-8", "surrogateescape"))
    return None


def file_digest(path: str) -> bytes:
    """The digest of a file's content, kept while its size, inode and times stay.

    :raises Unhashable: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        return _digest_of(descriptor)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)


def _digest_of(descriptor: int) -> bytes:
    now = time.time_ns()
    info = os.fstat(descriptor)
    name = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    known = _digests.get(name)
    if known is None:
        known = tree.digest_of_file(descriptor, info.st_size)
        settled = max(info.st_mtime_ns, info.st_ctime_ns) + _SETTLED_NS < now
        after = os.fstat(descriptor)
        if settled and (after.st_size, after.st_mtime_ns, after.st_ctime_ns) == name[2:]:
            if len(_digests) > _DIGESTS_MAX:
                _digests.clear()
            _digests[name] = known
    return known


def _directory_digest(root: str) -> bytes:
    """All files below a directory by relative name and content, sorted; links are followed to files alone."""
    entries: List[Tuple[bytes, bytes]] = []
    for folder, folders, names in os.walk(root, onerror=_raise):
        # Importing a module writes there.
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root).encode("utf-8", "surrogateescape")
            if not os.path.exists(path):
                entries.append((relative, b"dangling " + os.readlink(path).encode("utf-8", "surrogateescape")))
            elif os.path.isfile(path):
                entries.append((relative, file_digest(path)))
        for name in folders:
            if not os.listdir(os.path.join(folder, name)):
                empty = os.path.relpath(os.path.join(folder, name), root)
                entries.append((empty.encode("utf-8", "surrogateescape") + b"/", b""))
    hasher = sha256(b"directory")
    for relative, content in sorted(entries):
        hasher.update(b"%x:%b%x:%b" % (len(relative), relative, len(content), content))
    return hasher.digest()


def _raise(error: OSError) -> None:
    raise _unreadable(error.filename, error)


def _unreadable(path: str, error: OSError) -> Exception:
    from .walk import Unhashable

    return Unhashable("names {}, which cannot be read: {}".format(path, error.strerror or error))


def of_open_file(file: Any, walk: Walk) -> Node:
    """An open file: the content of what it reads, how, and from where on."""
    from .walk import Unhashable

    if hasattr(file, "getvalue"):
        value = file.getvalue()
        watch_again(file, walk, of_open_file)
        word = "memory {} {}".format(type(file).__name__, file.tell())
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return Node(b"open " + word.encode() + tree.digest(memoryview(data)))
    try:
        descriptor = file.fileno()
        if descriptor <= 2 or not file.readable() or getattr(file, "writable", bool)():
            if descriptor <= 2:
                return Node(b"standard stream")
            raise Unhashable("(an open file) is written to; pass its path, or open it for reading")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unhashable("(an open file) is a pipe or a device, whose content a call uses up")
        word = "{} {} {}".format(file.tell(), getattr(file, "encoding", None), getattr(file, "errors", None))
        watch_again(file, walk, of_open_file)
        return Node(b"open " + word.encode() + b" " + _digest_of(descriptor))
    except (OSError, ValueError) as error:
        raise Unhashable("(an open file) cannot be read: {}".format(error)) from None


def of_pure_path(path: Any, walk: Walk) -> Node:
    """A path that names no file of this machine: its text."""
    return Node(b"pure path", [str(path), type(path).__name__])


NAMED: Dict[Any, Any] = {
    ("pathlib", "Path"): of_path,
    ("pathlib", "PurePath"): of_pure_path,
    ("_io", "_IOBase"): of_open_file,
}
