"""Packages that only some uses need."""

from importlib.util import find_spec

from cl_lightning.common.errors import ConfigError


def need(module: str, what: str, install: str) -> None:
    """Raise ConfigError if a module is not installed.

    Args:
        module: its top-level name.
        what: what needs it.
        install: argument of `pip install`.
    """
    if find_spec(module) is None:
        raise ConfigError(f"{what} needs {module}, which is not installed: pip install {install}")
