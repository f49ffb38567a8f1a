"""What a code object does, as bytes that formatting, comments and docstrings do not change; and what it reads.

Bytecode is what runs, so it is what counts: a file that was edited after it was imported changes nothing yet. But the
compiler looks at line numbers when it lays out jumps. Where the file still holds what was imported, it is therefore
compiled once more with every position the same and without docstrings, and that twin is written down.
"""

from __future__ import annotations

import ast
import dis
import warnings
from hashlib import sha256

from . import atoms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Dict, List, Optional, Set, Tuple

_SKIPPED = frozenset(("NOP", "CACHE", "EXTENDED_ARG", "PRECALL", "NOT_TAKEN"))
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_CONSTANTS = frozenset(dis.hasconst)
# Whose argument says more than the name: whether the call protocol's extra slot is pushed.
_FLAGGED = frozenset(("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_SUPER_ATTR"))
# CO_NOFREE (gone since 3.11) and CO_HAS_DOCSTRING (since 3.13): said by other fields, or of no account.
_FLAGS = ~(0x40 | 0x4000000)
# What stands between a name that was loaded and its attribute without changing either.
_TRANSPARENT = frozenset(("NOP", "CACHE", "EXTENDED_ARG", "PRECALL", "PUSH_NULL", "NOT_TAKEN"))
_ATTRIBUTES = frozenset(("LOAD_ATTR", "LOAD_METHOD"))
_CACHE_MAX = 20_000

_written: Dict[int, Tuple[CodeType, bytes]] = {}
_plain: Dict[int, Tuple[CodeType, bytes]] = {}
_reads: Dict[int, Tuple[CodeType, Reads]] = {}
_twins: Dict[str, Dict[CodeType, CodeType]] = {}


class Reads:
    """What a code object, with the code inside of it, reads from outside of itself.

    `names`: globals, each with the attributes that follow it, as ``("helpers", "deep", "f")``. `cells`: the same for
    variables of enclosing functions. `imports`: ``(module, level, attributes)`` for imports in the function's body.
    """

    __slots__ = ("names", "cells", "imports", "attributes")

    def __init__(self) -> None:
        self.names: Set[Tuple[str, ...]] = set()
        self.cells: Set[Tuple[str, ...]] = set()
        self.imports: Set[Tuple[str, int, Tuple[str, ...]]] = set()
        # Every attribute that is named anywhere, for the few that need a look (``__doc__``).
        self.attributes: Set[str] = set()


def digest(code: CodeType) -> bytes:
    """What the code does, 32 bytes; kept per code object."""
    kept = _written.get(id(code))
    if kept is None:
        if len(_written) > _CACHE_MAX:
            _written.clear()
        kept = _written[id(code)] = (code, _written_down(_twin(code)))
    return kept[1]


def plain_digest(code: CodeType) -> bytes:
    """As `digest`, for code of a package, whose formatting changes with its version only: no file is read."""
    kept = _plain.get(id(code))
    if kept is None:
        if len(_plain) > _CACHE_MAX:
            _plain.clear()
        kept = _plain[id(code)] = (code, _written_down(code))
    return kept[1]


def reads(code: CodeType) -> Reads:
    """What the code reads; kept per code object."""
    kept = _reads.get(id(code))
    if kept is None:
        if len(_reads) > _CACHE_MAX:
            _reads.clear()
        found = Reads()
        _collect(code, {}, found)
        kept = _reads[id(code)] = (code, found)
    return kept[1]


def texts(code: CodeType) -> Set[str]:
    """The constants of the code, and of the code inside of it, that are texts."""
    found = {const for const in code.co_consts if type(const) is str}
    for const in code.co_consts:
        if hasattr(const, "co_code"):
            found |= texts(const)
    return found


def _written_down(code: CodeType) -> bytes:
    hasher = sha256(b"code")
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]
    shape: Tuple[Any, ...] = (
        code.co_name,
        code.co_argcount,
        getattr(code, "co_posonlyargcount", 0),
        code.co_kwonlyargcount,
    )
    shape += (code.co_flags & _FLAGS, names, code.co_freevars, code.co_cellvars)
    hasher.update(repr(shape).encode("utf-8", "surrogatepass"))
    kept = [step for step in dis.get_instructions(code) if step.opname not in _SKIPPED]
    places = _places(kept)
    for step in kept:
        hasher.update(b"\n%b " % step.opname.encode())
        if step.opcode in _JUMPS:
            hasher.update(b"%d" % places(step.argval))
        elif step.opcode in _CONSTANTS:
            hasher.update(_constant(step.argval))
        elif step.arg is not None:
            hasher.update(_argument(step))
    for entry in _handlers(code):
        word = (places(entry.start), places(entry.end), places(entry.target), entry.depth, entry.lasti)
        hasher.update(repr(word).encode())
    return hasher.digest()


def _places(kept: List[Any]) -> Any:
    """Which instruction, of those that count, an offset is at or before."""
    from bisect import bisect_left

    offsets = [step.offset for step in kept]
    return lambda offset: bisect_left(offsets, offset)


def _handlers(code: CodeType) -> Any:
    if not getattr(code, "co_exceptiontable", b""):
        return ()
    return dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]


def _argument(step: Any) -> bytes:
    value = step.argval
    if isinstance(value, str):
        flag = b"%d" % (step.arg & 1) if step.opname in _FLAGGED else b""
        return atoms.encode(value) + flag  # type: ignore[operator]
    if isinstance(value, tuple):
        return repr(value).encode("utf-8", "surrogatepass")
    return b"%d" % step.arg


def _constant(value: Any) -> bytes:
    if hasattr(value, "co_code"):
        return b"C" + _written_down(value)
    if type(value) is tuple:
        return b"(" + b",".join(map(_constant, value)) + b")"
    if type(value) is frozenset:
        return b"{" + b",".join(sorted(map(_constant, value))) + b"}"
    if type(value) is slice:
        return b"[" + b",".join(map(_constant, (value.start, value.stop, value.step))) + b"]"
    return atoms.encode(value) or repr(value).encode()


def _twin(code: CodeType) -> CodeType:
    """The same code compiled without positions and docstrings; itself where its file is not what was imported."""
    twins = _twins.get(code.co_filename)
    if twins is None:
        twins = _twins[code.co_filename] = _compiled_twins(code.co_filename)
    elif code not in twins and len(twins):
        # The file may have been edited and imported again since.
        twins.update(_compiled_twins(code.co_filename))
    return twins.get(code, code)


def _compiled_twins(path: str) -> Dict[CodeType, CodeType]:
    twins: Dict[CodeType, CodeType] = {}
    try:
        with open(path, "rb") as file:
            source = file.read()
        with warnings.catch_warnings():
            # What the compiler says of the file was said when it was imported.
            warnings.simplefilter("ignore")
            tree = ast.parse(source, path)
            original = compile(source, path, "exec", dont_inherit=True)
            _strip(tree)
            _pair(original, compile(tree, path, "exec", dont_inherit=True), twins)
    except (OSError, SyntaxError, ValueError, RecursionError):
        # No file, or not one that Python reads: the bytecode itself is written down.
        return twins
    return twins


def _strip(tree: ast.AST) -> None:
    """Takes docstrings out and puts everything on one line."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and body:
            first = getattr(body[0], "value", None)
            if isinstance(body[0], ast.Expr) and isinstance(getattr(first, "value", None), str):
                # What `walk` has listed already would not be given a position.
                body[0] = ast.Pass(lineno=1, col_offset=0, end_lineno=1, end_col_offset=0)
        if "lineno" in node._attributes:
            node.lineno = node.end_lineno = 1  # type: ignore[attr-defined]
            node.col_offset = node.end_col_offset = 0  # type: ignore[attr-defined]


def _pair(original: CodeType, stripped: CodeType, twins: Dict[CodeType, CodeType]) -> None:
    """Finds the code in one that belongs to code in the other: the same name at the same place."""
    twins[original] = stripped
    ours = [const for const in original.co_consts if hasattr(const, "co_code")]
    theirs = [const for const in stripped.co_consts if hasattr(const, "co_code")]
    if [code.co_name for code in ours] == [code.co_name for code in theirs]:
        for one, other in zip(ours, theirs):
            _pair(one, other, twins)


def _collect(code: CodeType, modules: Dict[str, Set[Tuple[str, int, Tuple[str, ...]]]], found: Reads) -> None:
    """Adds what `code` reads. `modules`: names of enclosing functions' variables that an import has bound."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _TRANSPARENT]
    local = _imported(steps, found)
    known = dict(modules)
    for name, bound in local.items():
        known[name] = known.get(name, set()) | bound
    own = set(code.co_varnames) | set(code.co_cellvars)
    for position, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"):
            if step.argval in known:
                _read_import(known[step.argval], _chain(steps, position), found)
            found.names.add((step.argval, *_chain(steps, position)))
        elif _names(step):
            loaded = _names(step)
            for at, name in enumerate(loaded):
                # Of two that one instruction loads, attributes follow the last.
                chain = _chain(steps, position) if at == len(loaded) - 1 else ()
                if name in known:
                    _read_import(known[name], chain, found)
                elif name in code.co_freevars and name not in own:
                    found.cells.add((name, *chain))
        elif step.opname in _ATTRIBUTES:
            found.attributes.add(step.argval)
    for const in code.co_consts:
        if hasattr(const, "co_code"):
            _collect(const, known, found)


def _names(step: Any) -> Tuple[str, ...]:
    """The variables that a LOAD_FAST, a LOAD_DEREF or one of their combined forms (since 3.13) reads."""
    name = step.opname
    if "FAST" not in name and "DEREF" not in name and "CLOSURE" not in name or "LOAD_" not in name:
        return ()
    variables = (step.argval,) if isinstance(step.argval, str) else tuple(step.argval or ())
    # STORE_FAST_LOAD_FAST stores its first.
    return variables[1:] if name.startswith("STORE_") else variables


def _chain(steps: List[Any], position: int) -> Tuple[str, ...]:
    """The attributes that are taken one after the other of what is loaded here."""
    chain = []
    for step in steps[position + 1 :]:
        if step.opname not in _ATTRIBUTES:
            break
        chain.append(step.argval)
    return tuple(chain)


def _imported(steps: List[Any], found: Reads) -> Dict[str, Set[Tuple[str, int, Tuple[str, ...]]]]:
    """What the imports in this body bind, by variable."""
    bound: Dict[str, Set[Tuple[str, int, Tuple[str, ...]]]] = {}
    for position, step in enumerate(steps):
        if step.opname != "IMPORT_NAME":
            continue
        level = _integer(steps, position - 2)
        before = steps[position - 1]
        wanted = before.argval if before.opcode in _CONSTANTS else None
        module = step.argval
        for name in wanted or ():
            found.imports.add((module, level, (name,) if name != "*" else ()))
        for following in range(position + 1, len(steps)):
            after = steps[following]
            if after.opname == "IMPORT_FROM":
                base = (module, level, (after.argval,)) if wanted else (module + "." + after.argval, level, ())
                if not wanted and module.endswith("." + after.argval):
                    base = (module, level, ())
                store = _store_after(steps, following)
                if store is not None:
                    bound.setdefault(store, set()).add(base)
            elif after.opname in ("SWAP", "ROT_TWO", "POP_TOP", "COPY"):
                continue
            elif after.opname.startswith("STORE_"):
                if not wanted and steps[following - 1] is step:
                    # `import a.b` binds `a`; what is used of it follows as attributes.
                    bound.setdefault(_stored(after), set()).add(
                        (module.split(".")[0] if not level else module, level, ())
                    )
                    found.imports.add((module, level, ("",)))
                if not wanted or following + 1 >= len(steps) or steps[following + 1].opname != "IMPORT_FROM":
                    break
            else:
                break
    return bound


def _store_after(steps: List[Any], position: int) -> Optional[str]:
    for step in steps[position + 1 : position + 4]:
        if step.opname.startswith("STORE_"):
            return _stored(step)
    return None


def _stored(step: Any) -> str:
    return step.argval if isinstance(step.argval, str) else step.argval[0]


def _integer(steps: List[Any], position: int) -> int:
    value = steps[position].argval if position >= 0 else 0
    return value if isinstance(value, int) else 0


def _read_import(bound: Any, chain: Tuple[str, ...], found: Reads) -> None:
    for module, level, attributes in bound:
        found.imports.add((module, level, attributes + chain))
