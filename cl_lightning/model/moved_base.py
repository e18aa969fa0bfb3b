"""The error of a base model that is not where its name says. No torch here, so that it is reported early."""

from collections.abc import Iterator
from contextlib import contextmanager

from cl_lightning.common.errors import ConfigError


class BaseMissing(ConfigError):
    """The base is not where its name says."""


@contextmanager
def base_may_move() -> Iterator[None]:
    """Inside, the error of a base that is not where it was says how to name it again."""
    try:
        yield
    except BaseMissing as error:
        raise ConfigError(f"{error}; if it has moved, say where it is: --base (in Python: base=)") from None
