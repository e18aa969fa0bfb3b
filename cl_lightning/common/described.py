"""Objects that know how they were made, so that a run built in Python is recorded as one built from options."""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Self

from cl_lightning.common.choices import check_choices

#: Metadata of a dataclass's field whose value is not recorded, and what stands in its place.
UNRECORDED = {"recorded": False}
OF_A_SCRIPT = "rows of a script"


class Described:
    """Checks the texts that an object is constructed with, and keeps its arguments."""

    _given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        check_choices(cls, args, kwargs)
        made = super().__new__(cls)
        object.__setattr__(made, "_given", (args, kwargs))
        return made


def describe(value: Any) -> Any:
    """Write a value as a configuration does: an object is its class_path and the init_args it was given.

    A dataclass is those of its fields that are not as by default. An object of another package is its class and those
    of its arguments that it keeps under their names, as far as they are plain values.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(item) for item in value]
    if is_dataclass(value):
        return {field.name: _of(field, kept) for field, kept in _chosen(value).items()}
    given = arguments(value)
    return {"class_path": _name(type(value))} | ({"init_args": given} if given else {})


def _chosen(value: Any) -> dict[Field, Any]:
    """Return the fields of a dataclass that are not as by default."""
    kept = {field: getattr(value, field.name) for field in fields(value) if field.init}
    usual = {
        field: field.default_factory() if field.default_factory is not MISSING else field.default for field in kept
    }
    return {field: one for field, one in kept.items() if one is not usual[field] and one != usual[field]}


def _of(field: Field, value: Any) -> Any:
    return describe(value) if field.metadata.get("recorded", True) else OF_A_SCRIPT


def _name(kind: type) -> str:
    """Return the dotted name of a class: of the package that exports it, or of the module that defines it."""
    package, _, _ = kind.__module__.rpartition(".")
    while package:
        if kind.__name__ in getattr(sys.modules.get(package), "EXPORTS", ()):
            return f"{package}.{kind.__name__}"
        package, _, _ = package.rpartition(".")
    return f"{kind.__module__}.{kind.__qualname__}"


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
