"""Check texts that a script chooses among: the command line has its parser for that."""

from collections.abc import Mapping, Sequence
from inspect import signature
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cl_lightning.common.errors import ConfigError, nearest


def check_choices(kind: type, args: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Raise ConfigError for a text that the annotation of its argument does not list.

    Args:
        kind: class that is constructed.
        args, given: arguments of its constructor, by position and by name.
    """
    named = dict(zip(list(signature(kind).parameters), args, strict=False)) | dict(given)
    for name, value in named.items():
        listed = _listed(kind).get(name, ())
        if listed and isinstance(value, str) and value not in listed:
            raise ConfigError(f"{kind.__name__}.{name}: {value!r} is not known; {nearest(value, listed)}")


def _listed(kind: type) -> dict[str, tuple[str, ...]]:
    """Return the texts that each argument may be, of those that list them; a base class may take further arguments."""
    found: dict[str, tuple[str, ...]] = {}
    for base in reversed(kind.__mro__[:-1]):
        if "__init__" in vars(base):
            found |= {name: _texts(hint) for name, hint in _hints(base).items()}
    return found


def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind.__init__)
    except NameError:  # names that a script imports for type checking alone
        return {}


def _texts(hint: Any) -> tuple[str, ...]:
    """Return the texts of an annotation, () if it takes any text or none."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(part is Any or (isinstance(part, type) and issubclass(part, str)) for part in parts):
        return ()
    return tuple(text for part in parts if get_origin(part) is Literal for text in get_args(part))
