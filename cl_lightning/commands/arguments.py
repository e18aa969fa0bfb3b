"""Argument parser of the commands other than `run`, with one-line errors."""

import argparse
from typing import NoReturn

from cl_lightning.common.errors import ConfigError


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser of `cl-lightning NAME`.

    Args:
        name: the command's name.
        about: description at the top of `--help`.
    """

    def __init__(self, name: str, about: str | None) -> None:
        super().__init__(
            f"cl-lightning {name}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of printing the usage and exiting."""
        raise ConfigError(f"{self.prog}: {message}; {self.prog} --help says more")


def positive(text: str) -> int:
    """An option's value that must be 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return int(text)
