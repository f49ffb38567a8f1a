"""``import staged_model``, ``from staged_model import train``: a module whose functions and classes make stages.

The finder is put in place by the import of this package, so it is small; what it needs comes with its first use.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "staged_"


class Finder:
    """Finds modules that begin with ``staged_``, unless there is a real one of that name."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What `sys.meta_path` asks for; None: not ours."""
        if not name.startswith(PREFIX):
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, Loader(name[len(PREFIX) :]), is_package=True)


class Loader:
    """Fills a module with what another one has, functions and classes as stage functions."""

    def __init__(self, real: str) -> None:
        self._real = real

    def create_module(self, spec: Any) -> Any:
        """The usual kind of module."""
        return None

    def exec_module(self, module: Any) -> None:
        """Imports the real module and fills this one.

        :raises ImportError: there is no module of that name.
        """
        from importlib import import_module
        from types import ModuleType

        from ._stages.stage import Stage, create_stage

        real = import_module(self._real)
        module.__doc__ = real.__doc__
        for name, value in vars(real).items():
            if name.startswith("__"):
                continue
            if callable(value) and not isinstance(value, (Stage, ModuleType)):
                value = create_stage(value)
            setattr(module, name, value)
        if hasattr(real, "__all__"):
            module.__all__ = list(real.__all__)


def install() -> None:
    """Puts the finder at the end: a real module comes first."""
    if not any(type(one) is Finder for one in sys.meta_path):
        sys.meta_path.append(Finder())  # type: ignore[arg-type]
