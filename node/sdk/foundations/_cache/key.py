"""The name of a call: what it would compute, and nothing of where, when and by whom.

A key is SHA-256 over the scheme, Python's minor version, the function's code with all that it reaches, the arguments by
content, and the versions of the packages that either of them reaches.
"""

from __future__ import annotations

import os
import sys
import types
from hashlib import sha256

from .. import _console
from . import atoms, code, packages
from .files import File
from .walk import Unhashable, Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

    Part = Tuple[str, str, str]

# Part of every key: raised when equal calls would get other keys, or other calls equal ones.
SCHEME = b"fnode-key-1"
_PYTHON = "{} {}.{}".format(sys.implementation.name, *sys.version_info[:2])
_VARARGS, _VARKEYWORDS = 0x04, 0x08
# Longest text that is looked at as the name of a file.
_PATH_MAX = 1024


class Misfit(Exception):
    """The arguments of a call do not fit its function."""


class Key:
    """A call's key in hex, with what it was made of."""

    __slots__ = ("hex", "_known", "_parts")

    def __init__(self, digest: str, known: code.Known, parts: List[Any]) -> None:
        self.hex = digest
        self._known = known
        self._parts = parts

    def parts(self) -> List[Part]:
        """Sorted (kind, name, digest): what `why` compares between two calls."""
        found = {(kind, name): digest.hex() for (kind, name), digest in self._known.parts.items()}
        for kind, name, value in self._parts:
            found[kind, name] = value.hex() if isinstance(value, bytes) else value
        return [(kind, name, digest) for (kind, name), digest in sorted(found.items())]


class Keys:
    """Makes the keys of calls of one function.

    :param version: any value that is part of the key: change it to compute again.
    :param depends_on: more that counts: names of environment variables, paths, functions, classes, modules, values.
    :param ignore: names of arguments that do not count.
    :param files: names of arguments whose texts name files, which count by their content.
    """

    def __init__(
        self, function: Any, version: object, depends_on: Sequence[Any], ignore: Iterable[str], files: Iterable[str]
    ) -> None:
        self.function = function
        self.name = "{}.{}".format(getattr(function, "__module__", ""), getattr(function, "__qualname__", function))
        self._depends_on = depends_on
        self._ignore = frozenset(ignore)
        self._files = frozenset(files)
        self._binder = Binder(function)
        self._known: Optional[code.Known] = None
        self._start = sha256(SCHEME + b"\0" + _PYTHON.encode())
        self._version = version
        self._versions: Dict[FrozenSet[str], Tuple[bytes, List[Any]]] = {}
        unknown = (self._ignore | self._files) - set(self._binder.names)
        if unknown and not self._binder.takes_any:
            raise ValueError("{} has no argument `{}`".format(self.name, sorted(unknown)[0]))

    def of(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Key:
        """The key of one call.

        :raises Unhashable: something that it depends on has no content; the text names it.
        :raises Misfit: the arguments do not fit; the call itself says how.
        """
        try:
            return self._of(args, kwargs)
        except (Unhashable, Misfit):
            raise
        except Exception as error:
            # Objects describe themselves, and other threads change them: whatever comes of that, the call goes on.
            raise Unhashable("something cannot be looked at ({}: {})".format(type(error).__name__, error)) from error

    def _of(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Key:
        known = self._code()
        hasher = self._start.copy()
        hasher.update(known.digest)
        parts: List[Any] = [("python", "", _PYTHON)]
        walk = Walk()
        for name, value in self._binder.bind(args, kwargs):
            if name in self._ignore:
                continue
            if name in self._files:
                value = _as_files(value)
            encoded = atoms.encode(value)
            if encoded is None:
                encoded = b"d" + self._digest(walk, "argument", name, value)
            elif type(value) is str:
                _warn_of_path(value, name, self.name)
            hasher.update(atoms.sized(b"a", name.encode()) + encoded)
            parts.append(("argument", name, encoded))
        self._add_dependencies(hasher, walk, parts)
        installed = known.packages | walk.packages if walk.packages else known.packages
        text, versions = self._of_packages(frozenset(installed))
        hasher.update(text)
        parts.extend(versions)
        parts.extend((kind, name, digest) for (kind, name), digest in walk.parts.items())
        return Key(hasher.hexdigest(), known, [(kind, name, _short(value)) for kind, name, value in parts])

    def _code(self) -> code.Known:
        known = self._known
        if known is not None and known.watches.hold():
            return known
        walk = Walk(of_code=True, file=code.file_of(self.function))
        root: Any = self.function
        if type(root) is types.FunctionType:
            root = code.describe_function(root, walk, with_defaults=False)
        known = self._known = code.Known(self.function, walk.digest(root, self.name), walk)
        return known

    def _digest(self, walk: Walk, kind: str, name: str, value: Any) -> bytes:
        one = Walk()
        digest = one.digest(value, "{} `{}`".format(kind, name))
        walk.packages |= one.packages
        walk.parts.update(one.parts)
        return digest

    def _add_dependencies(self, hasher: Any, walk: Walk, parts: List[Any]) -> None:
        if self._version is not None:
            digest = self._digest(walk, "version", "", self._version)
            hasher.update(b"version" + digest)
            parts.append(("version", "", digest))
        for at, wanted in enumerate(self._depends_on):
            if isinstance(wanted, str):
                value: Any = os.environ.get(wanted)
                kind, name, digest = "env", wanted, sha256(repr(value).encode("utf-8", "surrogateescape")).digest()
            elif isinstance(wanted, os.PathLike):
                kind, name = "file", os.fspath(wanted)
                digest = self._digest(walk, kind, name, wanted)
                name = os.path.basename(name)
            elif isinstance(wanted, types.ModuleType):
                deep = Walk(of_code=True)
                kind, name, digest = "global", wanted.__name__, deep.digest(wanted, wanted.__name__)
                walk.packages |= deep.packages
            else:
                kind, name = "depends_on", str(at)
                digest = self._digest(walk, kind, name, wanted)
            hasher.update(atoms.sized(b"w", "{} {}".format(kind, name if kind == "env" else at).encode()) + digest)
            parts.append((kind, name, digest))

    def _of_packages(self, names: FrozenSet[str]) -> Tuple[bytes, List[Any]]:
        known = self._versions.get(names)
        if known is None:
            versions = packages.versions(names)
            text = "".join("\0{}\0{}".format(*pair) for pair in versions).encode()
            known = self._versions[names] = (text, [("package", name, version) for name, version in versions])
        return known


class Binder:
    """Which argument of a call is which parameter, with the defaults: ``f(1)``, ``f(x=1)`` and a default are one."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._plain = type(function) is types.FunctionType
        self._signature: Any = None
        if self._plain:
            c = function.__code__
            self.names: Tuple[str, ...] = c.co_varnames[: c.co_argcount + c.co_kwonlyargcount]
            self.takes_any = bool(c.co_flags & _VARKEYWORDS)
            return
        from inspect import signature

        try:
            self._signature = signature(function)
            self.names = tuple(self._signature.parameters)
            self.takes_any = any(one.kind == one.VAR_KEYWORD for one in self._signature.parameters.values())
        except (TypeError, ValueError):
            self.names, self.takes_any = (), True

    def bind(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> List[Tuple[str, Any]]:
        """(name, value) for every parameter, in the function's order.

        :raises Misfit: they do not fit.
        """
        if not self._plain:
            return self._bind_by_signature(args, kwargs)
        function = self._function
        c = function.__code__
        count = c.co_argcount
        names = c.co_varnames
        if (
            not kwargs
            and len(args) == count
            and c.co_kwonlyargcount == 0
            and not c.co_flags & (_VARARGS | _VARKEYWORDS)
        ):
            return list(zip(names, args))
        bound = dict(zip(names[:count], args))
        extra: Dict[str, Any] = {}
        known = set(names[getattr(c, "co_posonlyargcount", 0) : count + c.co_kwonlyargcount])
        for name, value in kwargs.items():
            if name not in known:
                extra[name] = value
            elif name in bound:
                raise Misfit("{} got two values for `{}`".format(self._function.__qualname__, name))
            else:
                bound[name] = value
        defaults = dict(zip(names[count - len(function.__defaults__ or ()) : count], function.__defaults__ or ()))
        defaults.update(function.__kwdefaults__ or {})
        found = []
        for name in names[: count + c.co_kwonlyargcount]:
            if name not in bound and name not in defaults:
                raise Misfit("{} lacks its argument `{}`".format(self._function.__qualname__, name))
            found.append((name, bound[name] if name in bound else defaults[name]))
        if len(args) > count and not c.co_flags & _VARARGS or extra and not c.co_flags & _VARKEYWORDS:
            raise Misfit("{} got arguments that it does not take".format(self._function.__qualname__))
        if c.co_flags & _VARARGS:
            found.append(("*", tuple(args[count:])))
        if c.co_flags & _VARKEYWORDS:
            found.extend(("**" + name, value) for name, value in sorted(extra.items()))
        return found

    def _bind_by_signature(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> List[Tuple[str, Any]]:
        if self._signature is None:
            return [("*", args), *(("**" + name, value) for name, value in sorted(kwargs.items()))]
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Misfit(str(error)) from None
        bound.apply_defaults()
        return list(bound.arguments.items())


def _as_files(value: Any) -> Any:
    if isinstance(value, (str, os.PathLike)):
        return File(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_as_files(one) for one in value)
    return value


def _warn_of_path(text: str, argument: str, function: str) -> None:
    """Says once that a text is counted as a text, where a file of that name exists."""
    if not text or len(text) > _PATH_MAX or not (os.sep in text or "." in text):
        return
    try:
        exists = os.path.isfile(text)
    except ValueError:
        return
    if exists:
        _console.warning_once(
            "argument `{}` of {} names a file, whose content does not count; pass a pathlib.Path or foundations.File, "
            "or give cache(files=[{!r}])".format(argument, function, argument)
        )


def _short(value: Any) -> Any:
    return sha256(value).digest() if isinstance(value, bytes) and len(value) != 32 else value
