"""What is a package and what is the project, and which versions the packages have.

Everything that Python or pip installed is a package, counted by its version; everything else is the project, counted by
its code: also what an editable installation points to. Versions are read from the names of ``*.dist-info`` directories,
because `importlib.metadata` costs as much to import as everything else here.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

PYTHON = "python"
# This package itself: it does not change what a function returns.
OWN = "foundations"
# Modules that exist in memory alone, for the types that all of Cython's modules share.
_CYTHON = "_cython_"
_INSTALLED = ("site-packages", "dist-packages")
_OWN_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# How far requirements of requirements are followed; circles end by themselves.
_REQUIREMENTS_MAX = 500


def of_module(name: Optional[str]) -> Optional[str]:
    """The package that a module belongs to: its top-level name, `PYTHON`, `OWN`; None: the project."""
    if not name or name == "__main__":
        return None
    if name.startswith(_CYTHON):
        return PYTHON
    module = sys.modules.get(name)
    top = name.partition(".")[0]
    if module is None:
        return PYTHON if top in _python_modules() else _of_missing(top)
    path = getattr(module, "__file__", None)
    if path is None:
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.origin not in ("built-in", "frozen", None):
            return None
        if spec.origin is None:
            # A namespace package lies where its parts do.
            return of_file(next(iter(getattr(module, "__path__", ())), ""), top)
        return PYTHON
    return of_file(path, top)


def of_code(filename: str, module: Optional[str]) -> Optional[str]:
    """The package of a function, by the file that its code is from; code made at run time is its module's."""
    if filename.startswith("<"):
        return of_module(module) if not filename.startswith("<frozen") else PYTHON
    return of_file(filename, (module or "").partition(".")[0])


@lru_cache(maxsize=None)
def of_file(path: str, top: str) -> Optional[str]:
    """The package that a file belongs to; `top` is the top-level module that it was found by."""
    path = os.path.abspath(path)
    if path.startswith(_OWN_DIR):
        return OWN
    parts = path.split(os.sep)
    for place in _INSTALLED:
        if place in parts:
            below = parts[len(parts) - 1 - parts[::-1].index(place) + 1 :]
            return below[0].split(".")[0] if below else top
    real = os.path.realpath(path)
    return PYTHON if any(path.startswith(root) or real.startswith(root) for root in _python_roots()) else None


@lru_cache(maxsize=None)
def _python_roots() -> Tuple[str, ...]:
    import sysconfig

    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    paths.add(os.path.dirname(os.__file__))
    paths |= {os.path.realpath(path) for path in paths if path}
    return tuple(path + os.sep for path in paths if path)


@lru_cache(maxsize=None)
def _python_modules() -> Any:
    return frozenset(getattr(sys, "stdlib_module_names", ())) | frozenset(sys.builtin_module_names)


def _of_missing(top: str) -> Optional[str]:
    """Where a module that was not imported yet would come from."""
    spec = find(top)
    if spec is None:
        return None
    if spec.origin in ("built-in", "frozen"):
        return PYTHON
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    return of_file(place, top)


def find(name: str) -> Any:
    """A module's specification, without importing the module itself; None: there is none."""
    from importlib.util import find_spec

    try:
        return find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def versions(names: Iterable[str]) -> List[Tuple[str, str]]:
    """Sorted (distribution, version) of packages by top-level names, with what they require in turn."""
    found: Dict[str, str] = {}
    for name in sorted(set(names) - {PYTHON, OWN}):
        found.update(_versions_of(name))
    return sorted(found.items())


@lru_cache(maxsize=None)
def _versions_of(top: str) -> Dict[str, str]:
    place = _place(top)
    if place is None:
        return {top: _told_version(top)}
    installed, owners = _installed(place), _owners(place)
    start = [_normal(top)] if _normal(top) in installed else sorted(owners.get(top, ()))
    if not start:
        return {top: _told_version(top)}
    found: Dict[str, str] = {}
    waiting = list(start)
    while waiting and len(found) < _REQUIREMENTS_MAX:
        name = waiting.pop()
        if name in found or name not in installed:
            continue
        found[name], directory = installed[name]
        waiting.extend(_requirements(directory))
    return found


def _place(top: str) -> Optional[str]:
    """The site directory that a package lies in."""
    module = sys.modules.get(top)
    path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if path is None:
        spec = find(top)
        path = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    if not path:
        return None
    parts = os.path.abspath(path).split(os.sep)
    for place in _INSTALLED:
        if place in parts:
            return os.sep.join(parts[: len(parts) - parts[::-1].index(place)])
    return None


@lru_cache(maxsize=None)
def _installed(place: str) -> Dict[str, Tuple[str, str]]:
    """Distributions of a site directory, and of the others on the path: name to version and metadata directory."""
    found: Dict[str, Tuple[str, str]] = {}
    others = [path for path in sys.path if os.path.basename(path) in _INSTALLED and path != place]
    for site in [place, *others]:
        try:
            entries = sorted(os.listdir(site))
        except OSError:
            continue
        for entry in entries:
            stem, ending = os.path.splitext(entry)
            if ending in (".dist-info", ".egg-info") and "-" in stem:
                name, version = stem.split("-")[:2]
                found.setdefault(_normal(name), (version, os.path.join(site, entry)))
    return found


@lru_cache(maxsize=None)
def _owners(place: str) -> Dict[str, Set[str]]:
    """Top-level modules by the distributions that brought them, for those of another name (sklearn, PIL, yaml)."""
    owners: Dict[str, Set[str]] = {}
    for name, (_, directory) in _installed(place).items():
        tops = _lines(os.path.join(directory, "top_level.txt"))
        if not tops:
            records = (line.split(",")[0] for line in _lines(os.path.join(directory, "RECORD")))
            tops = sorted({record.split("/")[0].split(".")[0] for record in records if record.endswith((".py", ".so"))})
        for top in tops:
            owners.setdefault(top.strip(), set()).add(name)
    return owners


def _requirements(directory: str) -> List[str]:
    """What a distribution requires without extras; conditions on the platform count when the package is there."""
    names = []
    for line in _lines(os.path.join(directory, "METADATA")) or _lines(os.path.join(directory, "PKG-INFO")):
        if not line:
            break
        if line.startswith("Requires-Dist:"):
            wanted, _, condition = line[len("Requires-Dist:") :].partition(";")
            if "extra" not in condition:
                name = wanted.strip()
                end = next((at for at, char in enumerate(name) if not (char.isalnum() or char in "-_.")), len(name))
                names.append(_normal(name[:end]))
    return names


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _told_version(top: str) -> str:
    """The version of a package that no installer knows: what it says itself, else what its files hold."""
    version = getattr(sys.modules.get(top), "__version__", None)
    if isinstance(version, str):
        return version
    spec = find(top)
    root = spec and (next(iter(spec.submodule_search_locations or ()), None) or spec.origin)
    return "unknown" if not root else "files " + _files_digest(root)


def _files_digest(root: str) -> str:
    hasher = sha256()
    paths = [root] if os.path.isfile(root) else []
    for folder, folders, names in os.walk(root):
        folders.sort()
        paths.extend(os.path.join(folder, name) for name in sorted(names) if not name.endswith(".pyc"))
    for path in paths:
        hasher.update(os.path.relpath(path, os.path.dirname(root)).encode("utf-8", "surrogateescape"))
        with open(path, "rb") as file:
            hasher.update(sha256(file.read()).digest())
    return hasher.hexdigest()
