"""Package exports that are imported on first use (PEP 562), so that names are known without importing torch."""

from __future__ import annotations

from importlib import import_module

#: True for type checkers. Importing `typing` would lengthen the moment in which Ctrl-C cannot be reported yet.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def lazy_exports(
    package: str, exports: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Build `__getattr__`, `__dir__` and `__all__` of a package from {name: submodule}."""
    names = sorted(exports)

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")
        return getattr(import_module(f"{package}.{exports[name]}"), name)

    def __dir__() -> list[str]:
        return names

    return __getattr__, __dir__, names
