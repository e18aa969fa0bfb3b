"""Imports parts of SciPy on their first use: torchmetrics and transformers import each for a function no run calls."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: Module -> function that is looked up in it when it is imported, and the module that defines the function.
DEFERRED = {
    "scipy.signal": ("hamming", "scipy.signal.windows"),  # torchmetrics adds the old name where it finds none
    "scipy.optimize": ("linear_sum_assignment", "scipy.optimize._lsap"),
}


class _Deferred(ModuleType):
    """A module before its first use, which asks for something that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        loader = self.__spec__.loader.own
        self.__class__ = ModuleType
        self.__spec__.loader = self.__loader__ = loader
        loader.exec_module(self)
        return getattr(self, name)


class _OnFirstUse(Loader):
    """Lets a module run its code on its first use. `own`: the loader that runs it."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def exec_module(self, module: ModuleType) -> None:
        name, home = DEFERRED[module.__name__]
        setattr(module, name, _caller(name, home))
        module.__class__ = _Deferred


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _OnFirstUse(spec.loader)
        return spec


def _caller(name: str, home: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(import_module(home), name)(*args, **kwargs)


def defer_scipy() -> None:
    """Import the modules of DEFERRED, from now on, when something of them is first asked for."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
