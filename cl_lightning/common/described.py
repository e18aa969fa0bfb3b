"""Objects that know how they were made, so that a run built in Python is recorded as one built from options."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Self

#: Metadata of a dataclass's field that is no part of the description: it becomes null.
UNRECORDED = {"recorded": False}


class Described:
    """Keeps the arguments that an object is constructed with."""

    _given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        object.__setattr__(made, "_given", (args, kwargs))
        return made


def describe(value: Any) -> Any:
    """Write a value as a configuration does: an object is its class_path and the init_args it was given.

    A dataclass is its fields. An object of another package is its class and those of its arguments that it keeps under
    their names, as far as they are plain values.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: describe(getattr(value, field.name)) if field.metadata.get("recorded", True) else None
            for field in fields(value)
            if field.init
        }
    kind = type(value)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments(value)}


def arguments(value: Any) -> dict[str, Any]:
    """Describe the arguments of an object: see `describe`."""
    if not isinstance(value, Described):
        return {
            name: describe(kept)
            for name in signature(type(value)).parameters
            if _is_plain(kept := getattr(value, name, value))
        }
    args, kwargs = value._given
    bound = signature(type(value).__init__).bind(value, *args, **kwargs)
    given = dict(list(bound.arguments.items())[1:])  # without self
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    return {name: describe(kept) for name, kept in given.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)
