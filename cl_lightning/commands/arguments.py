"""Argument parser of the commands other than `run`, with one-line errors."""

import argparse
import textwrap
from typing import Any, NoReturn

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.yaml_files import parse_yaml

#: Help of `--cluster`.
SETTINGS = "of Slurm, through submitit; settings: timeout_min=600 gpus_per_node=1 slurm_partition=NAME ..."


class Paragraphs(argparse.HelpFormatter):
    """Wraps each paragraph of a description to the terminal's width, and keeps the blank lines between them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        fill = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False).fill
        return "\n\n".join(map(fill, paragraphs))


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
            formatter_class=Paragraphs,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of printing the usage and exiting."""
        raise ConfigError(f"{self.prog}: {message}; {self.prog} --help says more")


def add_base(parser: Arguments) -> None:
    """Add the options of commands that load the model of a run: where its base is, and what may run."""
    parser.add_argument("--base", metavar="MODEL", help="where the base model is now, if it has moved")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS", help="class of your own that the run may use"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")


def add_cluster(parser: Arguments, what: str) -> None:
    """Add `--cluster`, which is None if it is not given. `what` it does, for the help."""
    parser.add_argument("--cluster", nargs="*", type=_setting, metavar="KEY=VALUE", help=f"{what} {SETTINGS}")


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY=VALUE")
    return key, parse_yaml(value, key)


def positive(text: str) -> int:
    """An option's value that must be 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return int(text)
