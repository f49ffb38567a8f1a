"""What code is made of: functions, classes, modules, and whatever they reach of the project."""

from __future__ import annotations

import functools
import types
from hashlib import sha256

from . import atoms, bytecode, packages
from .graph import Node
from .watch import MISSING, Watches, cell_content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Set, Tuple

    from .walk import Walk

# Where a module lies and how it was loaded: another checkout has others.
_PLACES = frozenset(
    "__file__ __path__ __name__ __package__ __spec__ __loader__ __builtins__ __cached__ __debug__".split()
)
# Built-in functions that can read any name of the module that they are called in.
_READ_ALL = frozenset(("globals", "eval", "exec"))
_IMPORTERS = frozenset(("import_module", "__import__"))
# What the interpreter adds to a class, and what only tools read.
_NOT_CLASS = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __qualname__ __firstlineno__ __static_attributes__ _abc_impl "
    "__annotations_cache__ __parameters__ __orig_bases__ __pydantic_core_schema__ __pydantic_serializer__ "
    "__pydantic_validator__ __signature__ __pydantic_parent_namespace__".split()
)
# CO_NESTED: the code of a function in a function.
_NESTED = 0x10
_NOT_FUNCTION = frozenset(("__wrapped__",))
_MEMO_MAX = 4096


def of_function(function: Any, walk: Walk) -> Node:
    """A function: its code, defaults, closure, and what its names mean now."""
    if not walk.of_code:
        return of_known_code(function, walk)
    return describe_function(function, walk)


def describe_function(function: Any, walk: Walk, with_defaults: bool = True) -> Node:
    """As `of_function`, always with its parts. A call binds its own function's defaults as arguments."""
    package = packages.of_code(function.__code__.co_filename, function.__module__)
    name = "{}.{}".format(function.__module__, function.__qualname__)
    if not walk.covered:
        walk.watches.function(function)
    if package is not None:
        return _of_package_function(function, package, name, walk)
    code = function.__code__
    read = bytecode.reads(code)
    names: List[str] = []
    parts: List[Any] = []
    if with_defaults:
        names, parts = ["'s defaults", "'s defaults"], [function.__defaults__, function.__kwdefaults__]
    for variable, cell in zip(code.co_freevars, function.__closure__ or ()):
        content = cell_content(cell) if walk.covered else walk.watches.cell(cell)
        chains = [path[1:] for path in read.cells if path[0] == variable]
        _add(names, parts, variable, content, chains, walk)
    for name_read, chains in _by_first(read.names):
        content = _global(function, name_read, walk)
        _add(names, parts, name_read, content, chains, walk)
    for module, level, attributes in sorted(read.imports):
        found = _import(function, module, level, walk)
        chains = [attributes] if attributes != ("",) else []
        if chains or found is MISSING:
            _add(names, parts, "import " + "." * level + module, found, chains, walk)
    own = {key: value for key, value in function.__dict__.items() if key not in _NOT_FUNCTION}
    _add_by_text(names, parts, function, read)
    if not walk.covered:
        walk.watches.mapping(function.__dict__)
    if own:
        names.append("")
        parts.append(own)
    head = b"function " + bytecode.digest(code)
    return Node(head, parts, names=names, label=("function", name))


def of_known_code(thing: Any, walk: Walk) -> Node:
    """A function or a class below a value: a leaf, whose digest is kept while nothing that it reaches changes."""
    known = digest(thing)
    walk.packages |= known.packages
    for label, own in known.parts.items():
        walk.parts.setdefault(label, own)
    return Node(b"code " + known.digest)


class Known:
    """The digest of code, with what it depends on."""

    __slots__ = ("thing", "digest", "packages", "watches", "parts")

    def __init__(self, thing: Any, digest: bytes, walk: Walk) -> None:
        self.thing = thing
        self.digest = digest
        self.packages: Set[str] = walk.packages
        self.watches: Watches = walk.watches
        self.parts: Dict[Tuple[str, str], bytes] = walk.parts


_memo: Dict[int, Known] = {}


def digest(thing: Any) -> Known:
    """The digest of a function or a class with all that it reaches of the project.

    :raises Unhashable: it reaches something without a digest.
    """
    known = _memo.get(id(thing))
    if known is not None and known.thing is thing and known.watches.hold():
        return known
    from .walk import Walk

    walk = Walk(of_code=True, file=file_of(thing))
    known = Known(thing, walk.digest(thing, getattr(thing, "__qualname__", repr(thing))), walk)
    # A closure is usually made for one call, and holds what should not live longer.
    if not getattr(thing, "__closure__", None):
        if len(_memo) > _MEMO_MAX:
            _memo.clear()
        _memo[id(thing)] = known
    return known


def file_of(thing: Any) -> str:
    """The file that a function or a class is from; empty: none."""
    import sys

    if isinstance(thing, types.FunctionType):
        path = thing.__code__.co_filename
        return path if not path.startswith("<") else ""
    return getattr(sys.modules.get(getattr(thing, "__module__", "")), "__file__", None) or ""


def _of_package_function(function: Any, package: str, name: str, walk: Walk) -> Node:
    """A function that was installed: by name and version. What the project closed it over counts, as in decorators."""
    walk.packages.add(package)
    # What was made in a function, as decorators make them, holds what it was given, and `functools.wraps` has given it
    # another's name. What stands in a module has its own.
    is_made = function.__closure__ is not None or function.__code__.co_flags & _NESTED
    if not is_made or package == packages.OWN:
        return Node(b"installed " + atoms.sized(b"s", name.encode("utf-8", "surrogatepass")))
    head = b"made by " + atoms.sized(b"s", package.encode()) + bytecode.plain_digest(function.__code__)
    if getattr(function, "registry", None) is not None and hasattr(function, "dispatch"):
        # functools.singledispatch: its cache fills as it is used.
        if not walk.covered:
            walk.watches.check(_same_items(dict(function.registry), function))
        return Node(head + b" dispatch", [dict(function.registry)], names=[".registry"])
    parts: List[Any] = []
    names: List[str] = []
    if function.__defaults__ or function.__kwdefaults__:
        parts += [function.__defaults__, function.__kwdefaults__]
        names += ["'s defaults", "'s defaults"]
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        content = cell_content(cell) if walk.covered else walk.watches.cell(cell)
        _add(names, parts, variable, content, [()], walk)
    return Node(head, parts, names=names)


def _same_items(before: Dict[Any, Any], function: Any) -> Any:
    def holds() -> bool:
        now = function.registry
        return len(now) == len(before) and all(now.get(key) is value for key, value in before.items())

    return holds


def _by_first(paths: Set[Tuple[str, ...]]) -> List[Tuple[str, List[Tuple[str, ...]]]]:
    grouped: Dict[str, List[Tuple[str, ...]]] = {}
    for path in sorted(paths):
        grouped.setdefault(path[0], []).append(path[1:])
    return sorted(grouped.items())


def _add(names: List[str], parts: List[Any], name: str, content: Any, chains: List[Any], walk: Walk) -> None:
    """Adds what a name means: of a project's module only what is used of it, of anything else all."""
    if isinstance(content, types.ModuleType):
        for chain in chains:
            value, path = _through(content, chain, walk)
            names.append(" → " + ".".join((name, *path)))
            parts.append(_named(".".join((name, *path)), value))
        return
    names.append(" → " + name)
    parts.append(_named(name, content))
    if any(chain and chain[0] == "__doc__" for chain in chains):
        parts.append(_named(name + ".__doc__", getattr(content, "__doc__", None)))
        names.append(name + ".__doc__")


def _add_by_text(names: List[str], parts: List[Any], function: Any, read: bytecode.Reads) -> None:
    """Adds what may be reached by a name that is a text: all of the module, and modules that constants name."""
    import sys
    from importlib import import_module

    if any(path[0] in _READ_ALL for path in read.names):
        module = sys.modules.get(function.__globals__.get("__name__", ""))
        if module is not None and vars(module) is function.__globals__:
            names.append(" → " + module.__name__)
            parts.append(module)
    paths = read.names | read.cells | {attributes for _, _, attributes in read.imports}
    if not any(_IMPORTERS.intersection(path) for path in paths):
        return
    for text in sorted(bytecode.texts(function.__code__)):
        if all(step.isidentifier() for step in text.split(".")) and packages.of_module(text) is None:
            try:
                module = sys.modules.get(text) or (packages.find(text) and import_module(text))
            except Exception:
                # The function will be told, or has an answer to it.
                continue
            if module is not None:
                names.append(" → " + text)
                parts.append(module)


def _named(name: str, value: Any) -> Node:
    encoded = name.encode("utf-8", "surrogatepass")
    if type(value) is Node:
        return Node(b"name " + encoded, [value])
    if value is MISSING:
        return Node(b"nothing " + encoded)
    is_code = isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type))
    return Node(b"name " + encoded, [value], names=[""], label=None if is_code else ("global", name))


def _through(module: Any, chain: Tuple[str, ...], walk: Walk) -> Tuple[Any, Tuple[str, ...]]:
    """Follows attributes through modules to what is no module; returns it and the attributes that led there."""
    followed: List[str] = []
    value: Any = module
    for attribute in chain:
        if not isinstance(value, types.ModuleType):
            break
        followed.append(attribute)
        if attribute in _PLACES:
            return Node(b"place"), tuple(followed)
        package = packages.of_module(value.__name__)
        here = value
        value = vars(here).get(attribute, MISSING) if walk.covered else walk.watches.name(vars(here), attribute)
        if package is not None and not _is_project_code(value) and not isinstance(value, types.ModuleType):
            return _installed(here.__name__, package, walk), tuple(followed)
        if value is MISSING:
            return vars(here).get("__getattr__", MISSING), tuple(followed)
    return value, tuple(followed)


def _is_project_code(value: Any) -> bool:
    """Whether something found in a package was put there by the project."""
    if isinstance(value, types.FunctionType):
        return packages.of_code(value.__code__.co_filename, value.__module__) is None
    return isinstance(value, type) and packages.of_module(value.__module__) is None


def _installed(module: str, package: str, walk: Walk) -> Node:
    walk.packages.add(package)
    return Node(b"package " + (package if package == packages.OWN else module).encode("utf-8", "surrogatepass"))


def _global(function: Any, name: str, walk: Walk) -> Any:
    if name in _PLACES:
        return Node(b"place")
    look = (lambda space, key: space.get(key, MISSING)) if walk.covered else walk.watches.name
    value = look(function.__globals__, name)
    if value is not MISSING:
        return value
    builtins = function.__globals__.get("__builtins__")
    if isinstance(builtins, types.ModuleType):
        builtins = vars(builtins)
    return look(builtins, name) if isinstance(builtins, dict) else MISSING


def _import(function: Any, module: str, level: int, walk: Walk) -> Any:
    """The module that an import in a function's body would give; `MISSING`: none.

    A module of the project is imported, as the function would do; of a package only the version is wanted.
    """
    import sys
    from importlib import import_module

    name = module
    if level:
        package = (
            function.__globals__.get("__package__") or (function.__globals__.get("__name__") or "").rpartition(".")[0]
        )
        base = package.rsplit(".", level - 1)[0] if level > 1 else package
        name = base + "." + module if module else base
    top = name.partition(".")[0]
    package = packages.of_module(name if name in sys.modules else top)
    if package is not None:
        spec = sys.modules.get(top) or packages.find(top)
        return MISSING if spec is None else _installed(name, package, walk)
    try:
        return import_module(name)
    except Exception:
        # The function will be told, or has an answer to it.
        return MISSING


def of_module(module: Any, walk: Walk) -> Node:
    """A module that is used as a value: all of it, because what will be taken of it cannot be known."""
    package = packages.of_module(module.__name__)
    if package is not None:
        return _installed(module.__name__, package, walk)
    file = getattr(module, "__file__", None) or ""
    if file.endswith((".so", ".pyd")):
        return _extension(file)
    if not walk.covered:
        walk.watches.mapping(vars(module))
    shown = sorted(name for name in vars(module) if not (name.startswith("__") and name.endswith("__")))
    return Node(b"module", [_named(name, vars(module)[name]) for name in shown], names=[" → " + name for name in shown])


@functools.lru_cache(maxsize=None)
def _extension(path: str) -> Node:
    """A compiled module of the project, by its file: it is loaded once and never again."""
    with open(path, "rb") as file:
        return Node(b"extension " + sha256(file.read()).digest())


def of_class(cls: Any, walk: Walk) -> Node:
    """A class of the project with its bases, methods and attributes; any other by its name and package."""
    package = packages.of_module(cls.__module__)
    name = "{}.{}".format(cls.__module__, cls.__qualname__)
    if package is not None:
        walk.packages.add(package)
        return Node(b"type " + name.encode("utf-8", "surrogatepass"))
    if not walk.of_code:
        return of_known_code(cls, walk)
    if not walk.covered:
        walk.watches.mapping(cls.__dict__)
        bases = cls.__bases__
        walk.watches.check(lambda: cls.__bases__ is bases or cls.__bases__ == bases)
    parts: List[Any] = [tuple(cls.__bases__)]
    names: List[str] = [""]
    if type(cls) is not type:
        parts.append(type(cls))
        names.append("")
    shows_doc = False
    for key, value in sorted(vars(cls).items()):
        if key in _NOT_CLASS:
            continue
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            shows_doc = shows_doc or "__doc__" in bytecode.reads(function.__code__).attributes
        names.append("." + key)
        if key == "__annotations__" and isinstance(value, dict):
            parts.append(
                Node(b"annotations " + repr(sorted(map(_annotation, value.items()))).encode("utf-8", "replace"))
            )
        else:
            parts.append(Node(b"attribute " + key.encode("utf-8", "surrogatepass"), [value], names=[""]))
    if shows_doc:
        parts.append(cls.__doc__)
        names.append(".__doc__")
    head = b"class " + cls.__qualname__.encode("utf-8", "surrogatepass")
    return Node(head, parts, names=names, label=("class", name))


def _annotation(item: Tuple[str, Any]) -> Tuple[str, str]:
    """An annotation as text: its meaning matters to people and, through dataclasses, to fields that are seen anyway."""
    key, value = item
    text = value if isinstance(value, str) else getattr(value, "__qualname__", None) or repr(value)
    return key, text if " at 0x" not in text else type(value).__qualname__


def _of_builtin(function: Any, walk: Walk) -> Node:
    owner = getattr(function, "__self__", None)
    name = "{}.{}".format(function.__module__, function.__qualname__).encode()
    if owner is None or isinstance(owner, types.ModuleType):
        package = packages.of_module(function.__module__) if function.__module__ else packages.PYTHON
        if package is None and owner is not None:
            return Node(b"builtin " + name, [owner])
        walk.packages.add(package or packages.PYTHON)
        return Node(b"builtin " + name)
    return Node(b"builtin method " + name, [owner], names=[".__self__"])


def _of_slot(slot: Any, walk: Walk) -> Node:
    return Node(b"slot " + type(slot).__name__.encode() + b" " + getattr(slot, "__name__", "").encode())


def _of_method(method: Any, walk: Walk) -> Node:
    return Node(b"method", [method.__func__, method.__self__], names=["", ".__self__"])


def _of_wrapper(kind: bytes) -> Any:
    return lambda value, walk: Node(kind, [value.__func__], names=[""])


def _of_property(value: Any, walk: Walk) -> Node:
    return Node(b"property", [value.fget, value.fset, value.fdel], names=[".fget", ".fset", ".fdel"])


def _of_lru(function: Any, walk: Walk) -> Node:
    # What it remembers follows from what it calls.
    return Node(b"lru_cache", [function.__wrapped__], names=[""])


def _of_cached_property(value: Any, walk: Walk) -> Node:
    return Node(b"cached_property", [value.func], names=[""])


def _of_code_object(code: Any, walk: Walk) -> Node:
    return Node(b"code object " + bytecode.digest(code))


def _of_cell(cell: Any, walk: Walk) -> Node:
    content = cell_content(cell) if walk.covered else walk.watches.cell(cell)
    return Node(b"empty cell") if content is MISSING else Node(b"cell", [content], names=[""])


EXACT: Dict[type, Any] = {
    types.FunctionType: of_function,
    types.BuiltinFunctionType: _of_builtin,
    types.MethodType: _of_method,
    types.ModuleType: of_module,
    types.CodeType: _of_code_object,
    types.CellType: _of_cell,
    types.WrapperDescriptorType: _of_slot,
    types.MethodDescriptorType: _of_slot,
    types.ClassMethodDescriptorType: _of_slot,
    types.MemberDescriptorType: _of_slot,
    types.GetSetDescriptorType: _of_slot,
    type: of_class,
    staticmethod: _of_wrapper(b"staticmethod"),
    classmethod: _of_wrapper(b"classmethod"),
    property: _of_property,
    functools._lru_cache_wrapper: _of_lru,
    functools.cached_property: _of_cached_property,
}
