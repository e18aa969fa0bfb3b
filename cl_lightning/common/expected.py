"""Check the objects that a script gives: the command line builds them from options that the parser has checked."""

from typing import Any

from cl_lightning.common.errors import ConfigError


def expect(name: str, value: Any, kind: type | tuple[type, ...], example: str) -> None:
    """Raise ConfigError if `value`, the argument `name`, is not of this kind. `example`: what it should look like."""
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise ConfigError(f"{name}: is {given}, expected {example}")


def expect_number(name: str, value: Any, count: int) -> None:
    """Raise ConfigError if `value`, the argument of `name`, is not the number of one of `count` tasks, from 0."""
    if type(value) is not int or not 0 <= value < count:
        raise ConfigError(f"{name}: {value!r} is not the number of a task; there are {count}, from 0 to {count - 1}")
